// Package reader reads the messages of a stream in order, without a consumer: it
// acknowledges nothing, keeps nothing and needs no permission of other readers. So
// it works on every retention; a consumer would be refused on a work queue, and
// counts as interest.
package reader

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/wire"
)

// Config says what to read.
type Config struct {
	Stream   string
	Filter   string        // a pattern; ">" for all
	From     uint64        // the first sequence
	Since    time.Time     // the first time; then From is not looked at
	Patience time.Duration // how long the server may be silent; 0 for as long as the context lasts

	Ended <-chan struct{} // closed when reading must end
}

// Reader reads a stream. Messages come up to an end: the last sequence that there was
// when Look was called. It is not safe for concurrent use. It has no goroutine.
type Reader struct {
	cfg     Config
	link    *link.Link
	created time.Time
	direct  bool // the stream answers batched requests
	first   uint64
	last    uint64 // the end

	next   uint64 // what was not fetched yet begins here; 0 means at Since
	ready  []wire.Delivery
	buffer []wire.Delivery // the array of ready
	inbox  inbox
	batch  int // messages to ask for
}

// New returns a reader that knows no end yet. Close it.
func New(l *link.Link, c Config) *Reader {
	r := &Reader{cfg: c, link: l, next: max(c.From, 1), batch: firstBatch}
	if !c.Since.IsZero() {
		r.next = 0
	}
	return r
}

// Close gives up what the reader has.
func (r *Reader) Close() { r.inbox.close() }

// Next returns the next message. ok is false when there is none before the end.
func (r *Reader) Next(ctx context.Context) (d wire.Delivery, ok bool, err error) {
	for {
		if err := r.mayGoOn(ctx); err != nil {
			return wire.Delivery{}, false, err
		}
		if d, ok := r.pop(); ok {
			return d, true, nil
		}
		if len(r.ready) > 0 || r.next > r.last {
			return wire.Delivery{}, false, nil
		}
		if err := r.fill(ctx); err != nil {
			return wire.Delivery{}, false, err
		}
	}
}

// pop takes the first message that is here and asked for.
func (r *Reader) pop() (wire.Delivery, bool) {
	for len(r.ready) > 0 && r.ready[0].Stored.Sequence <= r.last {
		d := r.ready[0]
		r.ready[0] = wire.Delivery{} // may be freed before its neighbours
		r.ready = r.ready[1:]
		if !d.Stored.Time.Before(r.cfg.Since) {
			return d, true
		}
	}
	return wire.Delivery{}, false
}

// fill fetches what comes next, in a batch where the stream allows that.
func (r *Reader) fill(ctx context.Context) error {
	r.ready = r.buffer[:0]
	if !r.direct {
		return r.fetchOne(ctx)
	}
	more, err := r.fetchBatch(ctx)
	switch {
	case err != nil:
		return err
	case more:
		if err := r.ask(); !passing(err) { // it comes while these are read
			return err
		}
		return nil // they are here, and it is asked for when they have been read
	case r.next > r.last:
		return nil
	}
	return r.fetchOne(ctx) // who answered may be a copy that is behind; the leader knows
}

// add appends what was fetched.
func (r *Reader) add(d wire.Delivery) {
	r.ready = append(r.ready, d)
	r.buffer = r.ready
	r.next = d.Stored.Sequence + 1
}

// mayGoOn returns why reading must end.
func (r *Reader) mayGoOn(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case <-r.cfg.Ended:
		return link.ErrShut
	default:
		return nil
	}
}
