package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dead"
	"github.com/omnibus-go/bus/internal/wire"
)

// keep stores the copy of d of a kind that out makes for its place, unless it is there.
// It mends what somebody took away: the streams beside the stream; and the stream
// itself, which, made anew, repeats sequences whose places others have.
func (a *aside) keep(ctx context.Context, kind string, d *wire.Delivery, out func(dead.Place) wire.Out) error {
	for mended := false; ; {
		place := a.placeOf(d)
		err := a.store(ctx, kind, out(place))
		switch {
		case isThere(err):
			if err = a.yield(ctx, kind, d, place); err != nil || a.placeOf(d) == place {
				return err
			}
		case errors.Is(err, ErrNoResponders) && !mended:
			if err = a.mend(ctx); err != nil {
				return err
			}
			mended = true
		default:
			return err
		}
	}
}

// yield leaves the place to the copy that is there, if that is not of d but of another
// message: then a.placeOf is another one from now on. It is that of the stream as it is
// now, or else, where d is of an earlier one, or a message of that has it, one that bears
// d's own time.
func (a *aside) yield(ctx context.Context, kind string, d *wire.Delivery, place dead.Place) error {
	ctx, cancel := a.bus.core.WithTimeout(ctx)
	defer cancel()
	name := dead.StreamOf(a.stream)
	if kind == dead.Later {
		name = dead.RetryStreamOf(a.stream)
	}
	st, err := a.bus.core.JetStream.Stream(ctx, name)
	if err != nil {
		return streamError(name, "look up", err)
	}
	m, err := st.GetLastMsgForSubject(ctx, place.Subject(kind))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil // it was d's, and has gone on
	}
	if err != nil {
		return streamError(name, "read", err)
	}
	if c, err := dead.Parse(wire.Header(m.Header), m.Data); err == nil && c.Time.Equal(d.Stored.Time) {
		return nil
	}
	age, err := a.bus.incarnation(ctx, a.stream)
	if err != nil {
		return err
	}
	switch own := dead.Incarnation(d.Stored.Time); place.Incarnation {
	case own:
		return &StreamError{Stream: name, Op: "put aside", Err: fmt.Errorf("%s has another message's copy", place.Subject(kind))}
	case age:
		d.Stored.Incarnation = own
	default:
		d.Stored.Incarnation = "" // it was parked there before that was known
		a.newer.Store(&age)
	}
	return nil
}

// mend declares what lies beside the stream once more.
func (a *aside) mend(ctx context.Context) error {
	ctx, cancel := a.bus.core.WithTimeout(ctx)
	defer cancel()
	fresh, err := a.home.openAside(ctx, a.durable, a.ackWait)
	if err != nil {
		return err
	}
	a.newer.Store(&fresh.age)
	return nil
}

// incarnation tells the stream from earlier ones of its name.
func (b *Bus) incarnation(ctx context.Context, stream string) (string, error) {
	st, err := b.core.JetStream.Stream(ctx, stream)
	if err != nil {
		return "", streamError(stream, "look up", err)
	}
	return dead.Incarnation(st.CachedInfo().Created), nil
}
