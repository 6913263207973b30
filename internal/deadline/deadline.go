package deadline

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Pool gives a deadline to contexts that have none. It keeps the contexts for further
// calls. Each bus has its own pool. The zero value is ready to use. Safe for concurrent
// use.
type Pool struct{ pool sync.Pool }

// Bound returns ctx if it has a deadline. Otherwise it returns a context that also ends
// after timeout. The caller calls done when nobody uses the context any more.
func (p *Pool) Bound(ctx context.Context, timeout time.Duration) (bounded context.Context, done func()) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	if ctx.Done() != nil {
		return context.WithTimeout(ctx, timeout)
	}
	d, ok := p.pool.Get().(*deadline)
	if !ok {
		d = newDeadline(p)
	}
	d.Context = ctx
	d.at = time.Now().Add(timeout)
	d.timer.Reset(timeout)
	return d, d.release
}

// deadline is a context that ends when its timer fires. If the timer did not fire, the
// pool uses the context again.
type deadline struct {
	context.Context // for its values
	at              time.Time
	timer           *time.Timer
	ended           chan struct{}
	release         func()

	mu    sync.Mutex
	after []*func() // of AfterFunc
}

// newDeadline makes a deadline whose timer is stopped.
func newDeadline(p *Pool) *deadline {
	d := &deadline{ended: make(chan struct{})}
	d.timer = time.AfterFunc(time.Hour, d.end)
	d.timer.Stop()
	d.release = func() {
		if d.timer.Stop() {
			d.Context = context.Background()
			p.pool.Put(d)
		}
	}
	return d
}

// end is what the timer calls. It ends the context.
func (d *deadline) end() {
	d.mu.Lock()
	after := d.after
	d.after = nil
	close(d.ended)
	d.mu.Unlock()
	for _, f := range after {
		go (*f)()
	}
}

func (d *deadline) Deadline() (time.Time, bool) { return d.at, true }
func (d *deadline) Done() <-chan struct{}       { return d.ended }

func (d *deadline) Err() error {
	select {
	case <-d.ended:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// AfterFunc calls f on its own goroutine when the deadline has passed. The functions of
// package context that derive a context look for this method. Without it they start a
// goroutine that waits for the end of d.
func (d *deadline) AfterFunc(f func()) (stop func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.Err() != nil {
		go f()
		return func() bool { return false }
	}
	d.after = append(d.after, &f)
	return func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		i := slices.Index(d.after, &f)
		if i >= 0 {
			d.after = slices.Delete(d.after, i, i+1)
		}
		return i >= 0
	}
}
