package lifecycle

import (
	"context"
	"sync"
)

// Mutex is a mutex whose Lock honours a context. It is for work that takes long, such as
// calls to the server. The zero value is unlocked.
type Mutex struct {
	once sync.Once
	held chan struct{} // has one while it is locked
}

// Lock waits until nobody else has the mutex, and takes it. The caller calls unlock once.
// When ctx ends first, Lock returns the error of ctx. A mutex that is free is taken also with
// an ended context.
func (m *Mutex) Lock(ctx context.Context) (unlock func(), err error) {
	m.once.Do(func() { m.held = make(chan struct{}, 1) })
	unlock = func() { <-m.held }
	select {
	case m.held <- struct{}{}:
		return unlock, nil
	default:
	}
	select {
	case m.held <- struct{}{}:
		return unlock, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
