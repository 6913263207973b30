package bus

import (
	"context"
	"errors"
	"sync"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// gathering brings the messages of one batch together again after each has gone
// through the middleware by itself. Each joins once, or leaves without.
type gathering struct {
	mu     sync.Mutex
	coming int           // messages that may still join
	joined []any         // by place; nil for one that has not
	left   []bool        // by place; it will not
	ready  chan struct{} // closed when none may
	done   chan struct{} // closed when they are handled
	errs   []error       // what became of each, valid then
}

// seat is one message's in a gathering. Its handler finds it in its context.
type seat struct {
	*gathering
	i int
}

type seatKey struct{}

func newGathering(n int) *gathering {
	return &gathering{coming: n, joined: make([]any, n), left: make([]bool, n), errs: make([]error, n), ready: make(chan struct{}), done: make(chan struct{})}
}

// errTooLate is for a middleware that calls next after it has returned.
var errTooLate = errors.New("bus: the batch of this message was handled without it")

// joinBatch has m handled with the other messages of its batch. Called again for the
// same message it returns the same.
func joinBatch(ctx context.Context, m any) error {
	p, ok := ctx.Value(seatKey{}).(seat)
	if !ok {
		return errors.New("bus: the middleware passed on a context that is not made from its own")
	}
	if !p.join(m) {
		return errTooLate
	}
	<-p.done
	return p.errs[p.i]
}

func (p seat) join(m any) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.joined[p.i] != nil {
		return true
	}
	if p.left[p.i] {
		return false
	}
	p.joined[p.i] = m
	p.arrivedLocked()
	return true
}

// leave is called when the message has gone through.
func (p seat) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.joined[p.i] == nil {
		p.left[p.i] = true
		p.arrivedLocked()
	}
}

func (g *gathering) arrivedLocked() {
	if g.coming--; g.coming == 0 {
		close(g.ready)
	}
}

// handle has b handle those that joined.
func (g *gathering) handle(ctx context.Context, b *batch) {
	var ms []any
	var places []int
	for i, m := range g.joined {
		if m != nil {
			ms, places = append(ms, m), append(places, i)
		}
	}
	errs := make([]error, len(ms))
	defer func() {
		for i, err := range errs {
			g.errs[places[i]] = err
		}
		close(g.done)
	}()
	if len(ms) > 0 {
		b.call(ctx, ms, errs)
	}
}

// runner makes an attempt at each message of a batch of c's. The batch is handled on
// the goroutine that calls it, so that it is known whose handler ends the bus.
func (b *batch) runner(c *Consumer) func([]wire.Delivery) []settle.Outcome {
	return func(ds []wire.Delivery) []settle.Outcome {
		g := newGathering(len(ds))
		outcomes := make([]settle.Outcome, len(ds))
		var all sync.WaitGroup
		for i := range ds {
			all.Go(func() {
				p := seat{g, i}
				returned := false
				defer func() {
					if !returned { // a middleware ends the goroutine
						outcomes[i].Err = ds[i].Stored.Failure
					}
					p.leave()
				}()
				outcomes[i] = c.attempt(context.WithValue(c.receiver.ctx, seatKey{}, p), ds[i])
				returned = true
			})
		}
		<-g.ready
		defer all.Wait() // also where the handler ends the goroutine
		g.handle(c.receiver.ctx, b)
		all.Wait()
		return outcomes
	}
}
