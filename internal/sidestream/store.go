package sidestream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
	"github.com/omnibus-go/bus/switchover"
)

// Stream is the stream that the side streams belong to. They are stored as safely as it.
type Stream struct {
	Name        string
	Incarnation string // see IncarnationOf

	// The limits of the stream for its consumers. S-retry has at least as many consumers.
	MaxConsumers   int // zero or less: none
	ConsumerLimits jetstream.StreamConsumerLimits
}

// Store keeps what one durable cannot handle, or not yet. Safe for concurrent use.
type Store struct {
	core    *core.Core
	stream  Stream
	durable string
	ackWait atomic.Int64 // of the consumer of the messages that come back

	DeadLetters jetstream.Stream // S-dead
	Retries     jetstream.Stream // S-retry
	CanDefer    bool             // the server can keep a message until a time
	maxHeld     int              // of the consumer of the messages that come back
	created     bool             // Open created that consumer

	incarnation atomic.Pointer[string] // of the stream; see Incarnation
}

// Open makes sure that S-dead and S-retry exist, and the consumer by which messages come
// back to durable. It adds subjects that an older version did not use, and changes nothing
// else that exists. Errors are *jserr.Error and *ForeignStreamError.
func Open(ctx context.Context, c *core.Core, stream Stream, durable string, ackWait time.Duration) (*Store, error) {
	s := &Store{core: c, stream: stream, durable: durable}
	s.ackWait.Store(int64(ackWait))
	if err := s.readIncarnation(ctx); err != nil {
		return nil, err
	}
	var err error
	if s.DeadLetters, err = declareDead(ctx, c, stream); err != nil {
		return nil, err
	}
	if s.Retries, err = declareRetry(ctx, c, stream); err != nil {
		return nil, err
	}
	s.CanDefer = s.Retries.CachedInfo().Config.AllowMsgSchedules
	con, created, err := declareRetryConsumer(ctx, c, stream, durable, ackWait)
	if err != nil {
		return nil, err
	}
	s.maxHeld, s.created = cmp.Or(max(con.Config.MaxAckPending, 0), defaultMaxHeld), created
	return s, nil
}

// Undo deletes the consumer in S-retry if Open created it.
func (s *Store) Undo(ctx context.Context) error {
	if !s.created {
		return nil
	}
	return s.core.JetStream.DeleteConsumer(ctx, RetryStream(s.stream.Name), s.durable)
}

// Recreate makes sure once more that everything exists that Open made. It is called when
// somebody deleted a part of it while the durable is consumed. If the durable itself is gone it
// leaves no new consumer in S-retry.
func (s *Store) Recreate(ctx context.Context) error {
	ctx, cancel := s.core.WithTimeout(ctx)
	defer cancel()
	fresh, err := Open(ctx, s.core, s.stream, s.durable, time.Duration(s.ackWait.Load()))
	if err != nil {
		return err
	}
	s.incarnation.Store(fresh.incarnation.Load())
	if _, err := s.core.JetStream.Consumer(ctx, s.stream.Name, s.durable); jserr.IsAbsent(err) {
		return fresh.Undo(ctx)
	}
	return nil
}

// SetAckWait sets the AckWait of the consumer of the messages that come back. Errors are
// *jserr.Error.
func (s *Store) SetAckWait(ctx context.Context, ackWait time.Duration) error {
	if _, _, err := declareRetryConsumer(ctx, s.core, s.stream, s.durable, ackWait); err != nil {
		return err
	}
	s.ackWait.Store(int64(ackWait))
	return nil
}

// readIncarnation asks the server which incarnation of the stream there is now. Open calls it.
func (s *Store) readIncarnation(ctx context.Context) error {
	st, err := s.core.JetStream.Stream(ctx, s.stream.Name)
	if err != nil {
		return jserr.Wrap(s.stream.Name, "look up", err)
	}
	if moved, committed := wire.Moved(st.CachedInfo().Config.Metadata); moved {
		return &switchover.StreamMovedError{Stream: s.stream.Name, Committed: committed}
	}
	now := IncarnationOf(st.CachedInfo())
	s.incarnation.Store(&now)
	return nil
}

func currentIncarnation(ctx context.Context, c *core.Core, stream string) (string, error) {
	st, err := c.JetStream.Stream(ctx, stream)
	if err != nil {
		return "", jserr.Wrap(stream, "look up", err)
	}
	return IncarnationOf(st.CachedInfo()), nil
}

// Address returns the address of the message with a sequence in the stream. With sequence
// 0 it serves for patterns.
func (s *Store) Address(sequence uint64) Address {
	return Address{Stream: s.stream.Name, Durable: s.durable, Incarnation: *s.incarnation.Load(), Sequence: sequence}
}

// AddressOf returns the address of d. It has the token of d's key, and the incarnation of
// the stream that d came from.
func (s *Store) AddressOf(d *wire.Delivery) Address {
	a := s.Address(d.Stored.Sequence)
	if d.Stored.Incarnation != "" {
		a.Incarnation = d.Stored.Incarnation
	}
	if d.Stored.Key != "" {
		a.Key = KeyToken(d.Stored.Key)
	}
	return a
}

// StoreCopy stores out, of Copy.Message, in a side stream. Its error satisfies
// jserr.IsWrongLastSequence if the subject has a message already.
func StoreCopy(ctx context.Context, c *core.Core, kind Kind, out wire.Out) error {
	ctx, done := c.Bound(ctx)
	defer done()
	m := outlet.Message{Out: out, Copy: Prefix(kind), Idempotent: true}
	return c.WithReserve(ctx, m.Size(), func() error {
		_, err := c.Outlet.Store(ctx, &m)
		return err
	})
}

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
	switch own := wire.Incarnation(nil, d.Stored.Time); address.Incarnation {
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

// maxDelay is the longest time until a deferred retry. It ends before the year 2262, where
// nanoseconds overflow: the server would take a later time for one in the past.
const maxDelay = 100 * 365 * 24 * time.Hour

// DeferRetry stores a copy of d that the server turns into a returning message at a time.
// The caller acknowledges d afterwards. It needs CanDefer.
func (s *Store) DeferRetry(ctx context.Context, d *wire.Delivery, at time.Time) error {
	if latest := time.Now().Add(maxDelay); at.After(latest) {
		at = latest
	}
	return s.put(inTraceOf(ctx, d), Later, d, func(a Address) wire.Out {
		out := CopyOf(d, d.Stored.Attempt-1).Message(a.Subject(Later))
		out.Header[wire.HeaderNatsSchedule] = []string{"@at " + at.UTC().Format(time.RFC3339Nano)}
		out.Header[wire.HeaderNatsScheduleTarget] = []string{a.Subject(Retry)}
		return out
	})
}

// Source returns the source of the durable's messages that come back.
func (s *Store) Source() intake.Source {
	stream := RetryStream(s.stream.Name)
	return intake.Source{
		Next:     "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + s.durable,
		Info:     "$JS.API.CONSUMER.INFO." + stream + "." + s.durable,
		Acks:     "$JS.ACK." + stream + "." + s.durable,
		MaxHeld:  s.maxHeld,
		Restore:  s.restore,
		Recreate: s.Recreate,
	}
}

// restore turns a copy that comes back into the message that it was. It returns an error if
// it is no copy of a message of the stream: an *intake.UnreadableError if it may be a copy that
// another version of the library made.
func (s *Store) restore(d *wire.Delivery) error {
	c, err := ParseCopy(d.Header, d.Data)
	if err != nil && hasOurHeader(d.Header) {
		_, a, _ := ParseSubject(d.Subject)
		if a.Incarnation != s.Address(0).Incarnation {
			a = Address{} // its key has other messages now
		}
		return unreadable(RetryStream(s.stream.Name), d.Stored.Sequence, a, err)
	}
	if err != nil {
		return err
	}
	if c.Stream != s.stream.Name {
		return fmt.Errorf("sidestream: it is a copy of a message of stream %.100q", c.Stream)
	}
	if _, a, ok := ParseSubject(d.Subject); ok {
		d.Stored.Incarnation = a.Incarnation
	}
	d.Subject, d.Header = c.Subject, c.Header
	d.Stored.Stream, d.Stored.Sequence, d.Stored.Time = c.Stream, c.Sequence, c.Time
	d.Stored.Attempt, d.Stored.DeadLetter, d.Stored.Waited = c.Attempts+1, c.DeadLetter, true
	return nil
}
