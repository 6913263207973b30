package outlet

import (
	"context"
	"sync"

	"github.com/omnibus-go/bus/internal/dispatch"
)

// mostUntold bounds the memory for what waits to be told; beyond it messages are
// counted only.
const mostUntold = 1000

// teller tells what could not be sent, in order, on a goroutine of its own: whoever
// is told may take long, publish, or end the Async. The goroutine begins when there
// is something to tell and ends when there is nothing. The zero value is ready to
// use. Safe for concurrent use.
type teller struct {
	mu     sync.Mutex
	untold []func()
	more   int       // messages that are counted only
	count  func(int) // tells of those
	who    dispatch.Goroutine
	told   chan struct{} // closed when the goroutine ends; nil while there is none
}

// tell has one called, or its message counted.
func (t *teller) tell(one func(), count func(int)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.untold) < mostUntold {
		t.untold = append(t.untold, one)
	} else {
		t.more, t.count = t.more+1, count
	}
	t.beginLocked()
}

// lost has so many messages counted.
func (t *teller) lost(messages int, count func(int)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.more, t.count = t.more+messages, count
	t.beginLocked()
}

func (t *teller) beginLocked() {
	if t.told == nil {
		t.told = make(chan struct{})
		go t.run()
	}
}

func (t *teller) run() {
	t.mu.Lock()
	t.who = dispatch.Here()
	for next := t.nextLocked(); next != nil; next = t.nextLocked() {
		t.mu.Unlock()
		next()
		t.mu.Lock()
	}
	close(t.told)
	t.who, t.told = 0, nil
	t.mu.Unlock()
}

func (t *teller) nextLocked() func() {
	if len(t.untold) > 0 {
		next := t.untold[0]
		t.untold = t.untold[1:]
		return next
	}
	if n, count := t.more, t.count; n > 0 {
		t.more = 0
		return func() { count(n) }
	}
	return nil
}

// await waits until all is told or ctx ends; not for the caller that ctx notes.
func (t *teller) await(ctx context.Context) {
	t.mu.Lock()
	told := t.told
	t.mu.Unlock()
	if told == nil || t.isCaller(ctx) {
		return
	}
	select {
	case <-told:
	case <-ctx.Done():
	}
}

func (t *teller) isCaller(ctx context.Context) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.who.IsCaller(ctx)
}
