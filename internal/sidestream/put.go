package sidestream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
)

// put stores the copy of d that message returns for an address, unless it is stored
// already. It repairs two things that somebody may have done meanwhile: it creates a side
// stream that was deleted, once, and it finds another address if the stream was created
// again and a message with the same sequence has the address.
func (s *Store) put(ctx context.Context, kind Kind, d *wire.Delivery, message func(Address) wire.Out) error {
	for recreated := false; ; {
		address := s.AddressOf(d)
		err := StoreCopy(ctx, s.core, kind, message(address))
		switch {
		case jserr.IsWrongLastSequence(err):
			if err = s.resolveCollision(ctx, kind, d, address); err != nil || s.AddressOf(d) == address {
				return err
			}
		case errors.Is(err, nats.ErrNoResponders) && !recreated:
			if err = s.Recreate(ctx); err != nil {
				return err
			}
			recreated = true
		default:
			return err
		}
	}
}

// resolveCollision is called when the address of d has a copy already. If that is d's copy
// it does nothing. If it is the copy of another message, it changes what AddressOf(d)
// returns: first to the incarnation of the stream as it is now; if that is taken too, since
// d came from an earlier one, to an incarnation made from the time of d itself.
func (s *Store) resolveCollision(ctx context.Context, kind Kind, d *wire.Delivery, address Address) error {
	ctx, cancel := s.core.WithTimeout(ctx)
	defer cancel()
	same, err := s.hasCopyOf(ctx, kind, d, address)
	if err != nil || same {
		return err
	}
	now, err := currentIncarnation(ctx, s.core, s.stream.Name)
	if err != nil {
		return err
	}
	switch own := Incarnation(d.Stored.Time); address.Incarnation {
	case own:
		return jserr.Wrap(s.sideStream(kind), "store a copy", fmt.Errorf("%s has the copy of another message", address.Subject(kind)))
	case now:
		d.Stored.Incarnation = own
	default:
		d.Stored.Incarnation = "" // the copy of d was stored before the new incarnation was known
		s.incarnation.Store(&now)
	}
	return nil
}

// hasCopyOf reports whether the copy at an address is d's. It is if it is gone: then it was
// d's and has gone on.
func (s *Store) hasCopyOf(ctx context.Context, kind Kind, d *wire.Delivery, address Address) (bool, error) {
	name := s.sideStream(kind)
	st, err := s.core.JetStream.Stream(ctx, name)
	if err != nil {
		return false, jserr.Wrap(name, "look up", err)
	}
	m, err := st.GetLastMsgForSubject(ctx, address.Subject(kind))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	if err != nil {
		return false, jserr.Wrap(name, "read", err)
	}
	c, err := ParseCopy(wire.Header(m.Header), m.Data)
	return err == nil && c.Time.Equal(d.Stored.Time), nil
}

// sideStream returns the name of the stream with the messages of a kind.
func (s *Store) sideStream(kind Kind) string {
	if kind == Dead {
		return DeadStream(s.stream.Name)
	}
	return RetryStream(s.stream.Name)
}
