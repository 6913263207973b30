package switchover

import (
	"errors"
	"sync"
)

// each calls do for all, some at the same time, and returns the first errors. After an error it
// begins no other.
func each[T any](all []T, do func(T) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	room := make(chan struct{}, maxParallel)
	for _, one := range all {
		room <- struct{}{}
		mu.Lock()
		failed := len(errs) > 0
		mu.Unlock()
		if failed {
			break
		}
		wg.Go(func() {
			defer func() { <-room }()
			if err := do(one); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
