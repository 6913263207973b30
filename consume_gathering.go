package bus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// patience is how long a batch waits while no message of it comes through the
// middleware, at least; at most twice that.
const patience = time.Second

// gathering brings the messages of one batch together again after each has gone
// through the middleware by itself. Each joins once, or leaves without.
//
// One may wait in the middleware for another to return from there: for a copy of it, a
// lock, a semaphore. So the batch is handled in rounds. A round begins when no message
// may join any more, or some have and for a while no other one joins or leaves. Who
// joins while it is handled is in the next one. A message is
//
//	coming → left                            it did not call next
//	coming → joined → handled                its next returns with the outcome of the round
//	coming → joined or not → refused         a handler ended its goroutine: there are no more rounds
type gathering struct {
	mu     sync.Mutex
	coming int           // messages that may still join
	guests []guest       // by message
	now    *round        // the one that gathers; nil when there are no more
	ready  chan struct{} // closed when none may join
}

// guest is what is known of one message.
type guest struct {
	m    any    // nil until it joins
	in   *round // that it joined
	left bool   // it will not join
	err  error  // what became of it, valid when its round is done
}

// round is a part of a batch that is handled at once.
type round struct {
	joined int
	done   chan struct{} // closed when it is handled
}

func newRound() *round { return &round{done: make(chan struct{})} }

// seat is one message's in a gathering. Its handler finds it in its context.
type seat struct {
	*gathering
	i int
}

type seatKey struct{}

func newGathering(n int) *gathering {
	return &gathering{coming: n, guests: make([]guest, n), now: newRound(), ready: make(chan struct{})}
}

// errTooLate is for a middleware that calls next after it has returned, and for messages
// that no handler sees, as that has ended its goroutine before: for those it was no
// attempt.
var errTooLate = Postpone(0, errors.New("bus: the batch of this message was handled without it"))

// joinBatch has m handled with the other messages of its batch. Called again for the
// same message it returns the same.
func joinBatch(ctx context.Context, m any) error {
	p, ok := ctx.Value(seatKey{}).(seat)
	if !ok {
		return errors.New("bus: the middleware passed on a context that is not made from its own")
	}
	in := p.join(m)
	if in == nil {
		return errTooLate
	}
	<-in.done
	return p.guests[p.i].err
}

// join returns the round that m is in, or nil when it is too late.
func (p seat) join(m any) *round {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := &p.guests[p.i]
	if at.in == nil && !at.left && p.now != nil {
		at.m, at.in = m, p.now
		p.now.joined++
		p.arrivedLocked()
	}
	return at.in
}

// leave is called when the message has gone through.
func (p seat) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at := &p.guests[p.i]; at.in == nil {
		at.left = true
		p.arrivedLocked()
	}
}

func (g *gathering) arrivedLocked() {
	if g.coming--; g.coming == 0 {
		close(g.ready)
	}
}

// await returns when the next round begins.
func (g *gathering) await() {
	tick := time.NewTicker(patience)
	defer tick.Stop()
	for before := -1; ; {
		select {
		case <-g.ready:
			return
		case <-tick.C:
		}
		g.mu.Lock()
		coming, some := g.coming, g.now.joined > 0
		g.mu.Unlock()
		if some && coming == before {
			return
		}
		before = coming
	}
}

// next begins a round with those that have joined since the last one.
func (g *gathering) next() (r *round, ms []any, of []int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, g.now = g.now, newRound()
	for i := range g.guests {
		if at := &g.guests[i]; at.in == r {
			ms, of = append(ms, at.m), append(of, i)
		}
	}
	return r, ms, of
}

// handle has b handle those that have joined. It returns false when there are none.
func (g *gathering) handle(ctx context.Context, b *batch) bool {
	r, ms, of := g.next()
	if len(ms) == 0 {
		return false
	}
	errs := make([]error, len(ms))
	defer func() { // also where the handler ends the goroutine
		for i, err := range errs {
			g.guests[of[i]].err = err
		}
		close(r.done)
	}()
	b.call(ctx, ms, errs)
	return true
}

// end refuses who has joined since the last round, and who still comes.
func (g *gathering) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.guests {
		if at := &g.guests[i]; at.in == g.now {
			at.err = errTooLate
		}
	}
	close(g.now.done)
	g.now = nil
}

// runner makes an attempt at each message of a batch of c's. The batch is handled on
// the goroutine that calls it, so that it is known whose handler ends the bus. Where the
// handler ends that goroutine the outcomes are set as well.
func (b *batch) runner(c *Consumer) func([]wire.Delivery, []settle.Outcome) {
	return func(ds []wire.Delivery, outcomes []settle.Outcome) {
		g := newGathering(len(ds))
		var all sync.WaitGroup
		for i := range ds {
			all.Go(func() {
				p := seat{g, i}
				defer p.leave()
				returned := false
				defer func() {
					if !returned { // a middleware ends the goroutine
						outcomes[i] = c.exited(ds[i])
					}
				}()
				outcomes[i] = c.attempt(context.WithValue(c.receiver.ctx, seatKey{}, p), ds[i])
				returned = true
			})
		}
		defer all.Wait() // also where the handler ends the goroutine
		defer g.end()
		for again := true; again; again = g.handle(c.receiver.ctx, b) {
			g.await()
		}
	}
}
