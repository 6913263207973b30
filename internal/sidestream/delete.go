package sidestream

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
	"github.com/omnibus-go/bus/switchover"
)

// MayDelete returns a *switchover.StreamMovedError while a switch home that has fenced a stream, or
// one of its side streams, is not committed: the only copy may be here. Other errors are *jserr.Error.
func MayDelete(ctx context.Context, c *core.Core, stream string) error {
	for _, name := range []string{stream, RetryStream(stream), DeadStream(stream), KeysStream(stream)} {
		err := CheckHere(ctx, c, name)
		if moved, ok := errors.AsType[*switchover.StreamMovedError](err); err != nil && (!ok || !moved.Committed) {
			return err
		}
	}
	return nil
}

// CheckHere returns a *switchover.StreamMovedError if a switch home has fenced a stream, also one that
// is committed. It is no error if there is no such stream. Other errors are *jserr.Error.
func CheckHere(ctx context.Context, c *core.Core, name string) error {
	st, err := c.JetStream.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return jserr.Wrap(name, "look up", err)
	}
	if moved, committed := wire.Moved(st.CachedInfo().Config.Metadata); moved {
		return &switchover.StreamMovedError{Stream: name, Committed: committed}
	}
	return nil
}

// DeleteAll deletes the side streams of a stream, also those that a switch home has left. found is
// true if there was one. Errors are *jserr.Error; a second call goes on with what is left.
func DeleteAll(ctx context.Context, c *core.Core, stream string) (found bool, err error) {
	for _, side := range []struct{ name, pattern string }{
		{RetryStream(stream), Pattern(Retry, stream)},
		{DeadStream(stream), Pattern(Dead, stream)},
		{KeysStream(stream), Pattern(Keys, stream)},
	} {
		st, err := lookUp(ctx, c, side.name, side.pattern)
		if err == nil && st != nil {
			found = true
			err = c.JetStream.DeleteStream(ctx, side.name)
		}
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return found, jserr.Wrap(side.name, "delete", err)
		}
	}
	return found, nil
}

// lookUp returns a side stream, or nil if there is none. A stream without the pattern belongs to
// the program, unless a switch home has taken its subjects.
func lookUp(ctx context.Context, c *core.Core, name, pattern string) (jetstream.Stream, error) {
	st, err := c.JetStream.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	have := st.CachedInfo().Config
	if moved, _ := wire.Moved(have.Metadata); !slices.Contains(have.Subjects, pattern) && !moved {
		return nil, nil
	}
	return st, nil
}

// DeleteDurable deletes everything that a durable has in S-retry and S-keys. found is true
// if its consumer in S-retry was there. Errors are *jserr.Error; a second call goes on with
// what is left.
func DeleteDurable(ctx context.Context, c *core.Core, stream, durable string) (found bool, err error) {
	if found, err = deleteRetries(ctx, c, stream, durable); err != nil {
		return found, jserr.Wrap(RetryStream(stream), "delete consumer "+strconv.Quote(durable), err)
	}
	st, err := lookUp(ctx, c, KeysStream(stream), Pattern(Keys, stream))
	if err == nil && st != nil {
		err = purge(ctx, st, DurablePattern(Keys, stream, durable))
	}
	return found, jserr.Wrap(KeysStream(stream), "delete consumer "+strconv.Quote(durable), err)
}

// deleteRetries deletes the consumer of a durable in S-retry, and its messages there.
func deleteRetries(ctx context.Context, c *core.Core, stream, durable string) (found bool, err error) {
	st, err := lookUp(ctx, c, RetryStream(stream), Pattern(Retry, stream))
	if err != nil || st == nil {
		return false, err
	}
	switch err := st.DeleteConsumer(ctx, durable); {
	case err == nil:
		found = true
	case !jserr.IsAbsent(err):
		return false, err
	}
	return found, purgeDurable(ctx, st, stream, durable)
}

// purgeDurable removes the messages of a durable from st, which is S-retry.
func purgeDurable(ctx context.Context, st jetstream.Stream, stream, durable string, opts ...jetstream.StreamPurgeOpt) error {
	for _, kind := range []Kind{Later, Retry, Note} { // in this order: a Later becomes a Retry
		if err := purge(ctx, st, DurablePattern(kind, stream, durable), opts...); err != nil {
			return err
		}
	}
	return nil
}

// purge removes the messages of st that match a pattern. It is no error if st is gone.
func purge(ctx context.Context, st jetstream.Stream, pattern string, opts ...jetstream.StreamPurgeOpt) error {
	if err := st.Purge(ctx, append(opts, jetstream.WithPurgeSubject(pattern))...); err != nil && !jserr.IsAbsent(err) {
		return err
	}
	return nil
}

// RemoveLeftovers removes what this process stored for the durable in S-retry after DeleteDurable had
// removed the rest, because it had not heard of that yet. It does nothing if the durable or its
// consumer in S-retry exists. What is stored from now on stays: it belongs to a new durable of that
// name.
func (s *Store) RemoveLeftovers(ctx context.Context) error {
	ctx, cancel := s.core.WithTimeout(ctx)
	defer cancel()
	st, err := lookUp(ctx, s.core, RetryStream(s.stream.Name), Pattern(Retry, s.stream.Name))
	if err != nil || st == nil {
		return err
	}
	next := st.CachedInfo().State.LastSeq + 1
	for _, stream := range []string{s.stream.Name, RetryStream(s.stream.Name)} {
		if _, err := s.core.JetStream.Consumer(ctx, stream, s.durable); !jserr.IsAbsent(err) {
			return err
		}
	}
	return purgeDurable(ctx, st, s.stream.Name, s.durable, jetstream.WithPurgeSequence(next))
}
