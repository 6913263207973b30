package sidestream

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

// Stream is the stream that the side streams belong to. They are stored as safely as it.
type Stream struct {
	Name     string
	Created  time.Time
	Storage  jetstream.StorageType
	Replicas int
}

// Store keeps what one durable cannot handle, or not yet. Safe for concurrent use.
type Store struct {
	core    *core.Core
	stream  Stream
	durable string
	ackWait time.Duration

	DeadLetters jetstream.Stream // S-dead
	Retries     jetstream.Stream // S-retry
	CanDefer    bool             // the server can keep a message until a time
	maxHeld     int              // of the consumer of the messages that come back

	incarnation atomic.Pointer[string] // of the stream; see Incarnation
}

// Open makes sure that S-dead and S-retry exist, and the consumer by which messages come
// back to durable. It adds subjects that an older version did not use, and changes nothing
// else that exists. Errors are *jserr.Error and *ForeignStreamError.
func Open(ctx context.Context, c *core.Core, stream Stream, durable string, ackWait time.Duration) (*Store, error) {
	s := &Store{core: c, stream: stream, durable: durable, ackWait: ackWait}
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
	s.maxHeld, err = declareRetryConsumer(ctx, c, stream.Name, durable, ackWait)
	return s, err
}

// Recreate makes sure once more that everything exists that Open made. It is called when
// somebody deleted a part of it while the durable is consumed.
func (s *Store) Recreate(ctx context.Context) error {
	ctx, cancel := s.core.WithTimeout(ctx)
	defer cancel()
	fresh, err := Open(ctx, s.core, s.stream, s.durable, s.ackWait)
	if err != nil {
		return err
	}
	s.incarnation.Store(fresh.incarnation.Load())
	return nil
}

// readIncarnation asks the server which incarnation of the stream there is now.
func (s *Store) readIncarnation(ctx context.Context) error {
	now, err := currentIncarnation(ctx, s.core, s.stream.Name)
	if err == nil {
		s.incarnation.Store(&now)
	}
	return err
}

func currentIncarnation(ctx context.Context, c *core.Core, stream string) (string, error) {
	st, err := c.JetStream.Stream(ctx, stream)
	if err != nil {
		return "", jserr.Wrap(stream, "look up", err)
	}
	return Incarnation(st.CachedInfo().Created), nil
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
	_, err := c.Outlet.Store(ctx, &outlet.Message{Out: out, Copy: Prefix(kind), Idempotent: true})
	return err
}
