package sidestream

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

// PutDeadLetter stores d as a dead letter with a cause. The text of the failure is that of
// d.Stored.Dead. The caller terminates d afterwards, and calls again after an error.
//
// A dead letter that is too large for the server, as others may publish the original, only
// refers to the original, if the stream keeps that.
func (s *Store) PutDeadLetter(ctx context.Context, d *wire.Delivery, cause string) error {
	c := CopyOf(d, d.Stored.Attempt)
	c.Cause, c.Error = cause, d.Stored.Dead.Error()
	ctx = inTraceOf(ctx, d)
	err := s.putDeadLetter(ctx, d, c)
	if isTooLarge(err) && s.keepsHandled(ctx) {
		c.Reference = true
		return s.putDeadLetter(ctx, d, c)
	}
	return err
}

// putDeadLetter stores c, the copy of d, unless it is stored already. If d was a dead
// letter before, and its redrive has not removed that yet, c replaces it.
func (s *Store) putDeadLetter(ctx context.Context, d *wire.Delivery, c *Copy) error {
	message := func(a Address) wire.Out { return c.Message(a.Subject(Dead)) }
	if c.DeadLetter > 0 {
		out := message(s.AddressOf(d))
		ExpectLast(&out, c.DeadLetter)
		err := StoreCopy(ctx, s.core, Dead, out)
		if !jserr.IsWrongLastSequence(err) && !errors.Is(err, nats.ErrNoResponders) {
			return err
		}
		// The old dead letter is removed, or an earlier call has replaced it.
	}
	return s.put(ctx, Dead, d, message)
}

// isTooLarge reports whether the message exceeds the server's limits.
func isTooLarge(err error) bool {
	_, large := errors.AsType[*outlet.TooLargeError](err)
	return large || jserr.Is(err, jserr.HeaderTooLarge)
}

// keepsHandled reports whether the stream keeps messages that were terminated. It does not
// if it was deleted or created again.
func (s *Store) keepsHandled(ctx context.Context) bool {
	ctx, cancel := s.core.WithTimeout(ctx)
	defer cancel()
	st, err := s.core.JetStream.Stream(ctx, s.stream.Name)
	return err == nil && IncarnationOf(st.CachedInfo()) == s.stream.Incarnation &&
		st.CachedInfo().Config.Retention == jetstream.LimitsPolicy
}

// inTraceOf returns ctx with the span of d's last handler call.
func inTraceOf(ctx context.Context, d *wire.Delivery) context.Context {
	if d.Stored.Context == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, trace.SpanFromContext(d.Stored.Context))
}
