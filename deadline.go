package bus

import (
	"context"
	"slices"
	"sync"
	"time"
)

// deadlines gives contexts without a deadline one, without the five allocations
// of context.WithTimeout, for calls that take microseconds. The callee must not
// keep the context. They are kept per bus and not per process: a timer made in a
// testing/synctest bubble stays there. The zero value is ready to use. Safe for
// concurrent use.
type deadlines struct{ pool sync.Pool }

// bound returns ctx, or a context that also ends after timeout where ctx has no
// deadline. The caller calls done when nobody uses the context any more.
func (p *deadlines) bound(ctx context.Context, timeout time.Duration) (bounded context.Context, done func()) {
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

// deadline is a context that ends when its timer fires, and is used again if it
// did not.
type deadline struct {
	context.Context // for its values
	at              time.Time
	timer           *time.Timer
	ended           chan struct{}
	release         func()

	mu    sync.Mutex
	after []*func() // of AfterFunc
}

func newDeadline(p *deadlines) *deadline {
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

// AfterFunc is what context.WithTimeout and its like look for in their parent:
// without it they start a goroutine that waits for the parent's end.
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

// bound gives ctx the bus's timeout where it has no deadline. A tracer may keep
// the context, so with one it gets an ordinary one.
func (b *Bus) bound(ctx context.Context) (bounded context.Context, done func()) {
	if b.tel != nil {
		return b.cfg.withTimeout(ctx)
	}
	return b.deadlines.bound(ctx, b.cfg.timeout)
}
