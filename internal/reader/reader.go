package reader

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/wire"
)

// Config is what a Reader reads.
type Config struct {
	Stream  string
	Filter  string        // the subjects; ">" for all
	From    uint64        // the first sequence; ignored if Since is set
	Since   time.Time     // the time of the first message
	Timeout time.Duration // how long the server may give no answer; 0: until the context ends

	Ended <-chan struct{} // closed to end all reading
}

// Reader reads a stream up to its end: the last sequence that the stream had when SetEnd was
// called. Not safe for concurrent use.
type Reader struct {
	cfg     Config
	link    *link.Link
	created time.Time // of the stream, at the first SetEnd
	direct  bool      // the stream allows direct get, and the server answers it with batches
	first   uint64    // the first sequence of the stream
	last    uint64    // the end

	next   uint64          // the next sequence to fetch; 0: the first one since cfg.Since
	ready  []wire.Delivery // fetched and not returned yet
	buffer []wire.Delivery // the memory of ready, for reuse
	inbox  inbox
	batch  int // size of the next batch
}

// New returns a Reader without an end. Call SetEnd before Next, and Close at last.
func New(l *link.Link, c Config) *Reader {
	r := &Reader{cfg: c, link: l, next: max(c.From, 1), batch: firstBatch}
	if !c.Since.IsZero() {
		r.next = 0
	}
	return r
}

// Close ends the subscription for batches.
func (r *Reader) Close() { r.inbox.close() }

// Next returns the next message. ok is false if there is none up to the end.
func (r *Reader) Next(ctx context.Context) (d wire.Delivery, ok bool, err error) {
	for {
		if err := r.checkEnded(ctx); err != nil {
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

// pop returns the first fetched message up to the end.
func (r *Reader) pop() (wire.Delivery, bool) {
	for len(r.ready) > 0 && r.ready[0].Stored.Sequence <= r.last {
		d := r.ready[0]
		r.ready[0] = wire.Delivery{} // its memory may be freed before that of its neighbours
		r.ready = r.ready[1:]
		if !d.Stored.Time.Before(r.cfg.Since) {
			return d, true
		}
	}
	return wire.Delivery{}, false
}

// fill fetches the next messages, in a batch if the stream allows that. Next calls it.
func (r *Reader) fill(ctx context.Context) error {
	r.ready = r.buffer[:0]
	if !r.direct {
		if r.next == 0 {
			if err := r.seekTime(ctx); err != nil {
				return err
			}
		}
		return r.fetchOne(ctx)
	}
	more, err := r.fetchBatch(ctx)
	switch {
	case err != nil:
		return err
	case more:
		if err := r.requestBatch(); !isTemporary(err) { // the next batch arrives while this one is read
			return err
		}
		return nil // the request is made again when this batch has been read
	case r.next > r.last:
		return nil
	}
	return r.fetchOne(ctx) // a replica that is behind may have answered; ask the leader
}

// add appends a fetched message.
func (r *Reader) add(d wire.Delivery) {
	r.ready = append(r.ready, d)
	r.buffer = r.ready
	r.next = d.Stored.Sequence + 1
}

// checkEnded returns an error if reading must end.
func (r *Reader) checkEnded(ctx context.Context) error {
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
