package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/streamdef"
)

// Delete deletes the stream from the server with all its messages and consumers, and its
// side streams S-dead (the dead letters), S-retry and S-keys, also where a switch home has left
// them. While that is not committed it deletes nothing. Consumers of the stream end:
// see Consumer.Err. A call after an error goes on with what is left. Safe for concurrent
// use.
//
// Errors: ErrStreamNotFound if neither the stream nor a side stream existed,
// *switchover.StreamMovedError, *StreamError, ErrTimeout, ErrClosed.
func (s *Stream) Delete(ctx context.Context) error {
	done, err := s.enter(ctx, "Delete")
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	if err := sidestream.MayDelete(ctx, s.bus.core, s.name); err != nil {
		return translate(err)
	}
	s.expectEnd("", true)
	gone := s.bus.core.JetStream.DeleteStream(ctx, s.name)
	if gone != nil && !jserr.IsAbsent(gone) {
		s.expectEnd("", false)
		return streamError(s.name, "delete", gone)
	}
	s.bus.captures.Remove(s.name)
	found, err := sidestream.DeleteAll(ctx, s.bus.core, s.name)
	if err != nil {
		return translate(err)
	}
	if gone != nil && !found {
		return streamError(s.name, "delete", gone)
	}
	return nil
}

// expectEnd tells the consumers of the bus with a durable of s, or with any if it is empty, that the
// program deletes it, or that it has failed to.
func (s *Stream) expectEnd(durable string, expected bool) {
	for _, m := range s.bus.registry.Members() {
		if c, ok := m.(*Consumer); ok && c.stream == s.name && (durable == "" || c.durable == durable) {
			c.deleting.Store(expected)
		}
	}
}

// PurgeFilter chooses messages of a stream: those that match all fields that are set. The
// zero value chooses all messages.
type PurgeFilter struct {
	Subject string // messages on subjects that match this pattern
	Before  uint64 // messages with a lower sequence
	Keep    int    // all except the latest so many; not together with Before
}

func (f *PurgeFilter) check() error {
	var errs []error
	if f.Subject != "" {
		errs = append(errs, checkPattern(f.Subject))
	}
	if f.Keep < 0 {
		errs = append(errs, &OptionError{Option: "PurgeFilter.Keep", Value: strconv.Itoa(f.Keep), Reason: "must not be negative"})
	}
	if f.Keep > 0 && f.Before > 0 {
		errs = append(errs, &OptionError{Option: "PurgeFilter.Keep", Value: strconv.Itoa(f.Keep), Reason: "Before is given, too; leave one of the two out"})
	}
	return errors.Join(errs...)
}

// Purge deletes the messages that f chooses and returns their number. Sequences are not used
// again. Consumers skip deleted messages that they have not handled, also those that wait for
// another attempt (event.Removed). In a stream that keeps no acknowledged messages, those that
// wait in S-retry stay. Dead letters stay. Safe for concurrent use.
//
// Errors: *OptionError and *SubjectError for a wrong f, ErrStreamNotFound, *StreamError (if
// the stream is sealed or denies it), *switchover.StreamMovedError, ErrTimeout, ErrClosed. After ErrTimeout the messages
// may have been deleted; call Purge again to be sure.
func (s *Stream) Purge(ctx context.Context, f PurgeFilter) (int, error) {
	done, err := s.enter(ctx, "Purge")
	if err != nil {
		return 0, err
	}
	defer done()
	if err := f.check(); err != nil {
		return 0, err
	}
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	if err := sidestream.CheckHere(ctx, s.bus.core, s.name); err != nil {
		return 0, translate(err)
	}
	n, err := streamdef.Purge(ctx, s.bus.core, s.name, streamdef.Filter(f))
	return n, translate(err)
}

// DeleteConsumer deletes a durable consumer from the server: its position, its messages in
// S-retry that wait for another attempt, its crash marks, and its lease in S-keys. Its dead
// letters stay. Consumers with this durable end: see Consumer.Err. A later Consume with the
// name starts from the beginning. A call after an error goes on with what is left. Safe for
// concurrent use.
//
// Errors: *OptionError for a wrong name, *StreamError (Code 404 if the consumer or the
// stream does not exist), *switchover.StreamMovedError while a switch home of the stream is not
// committed, ErrTimeout, ErrClosed.
func (s *Stream) DeleteConsumer(ctx context.Context, durable string) error {
	done, err := s.enter(ctx, "DeleteConsumer")
	if err != nil {
		return err
	}
	defer done()
	if !streamName.MatchString(durable) {
		return badName("DeleteConsumer durable", durable)
	}
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	if err := sidestream.MayDelete(ctx, s.bus.core, s.name); err != nil {
		return translate(err)
	}
	op := fmt.Sprintf("delete consumer %q", durable)
	s.expectEnd(durable, true)
	gone := s.bus.core.JetStream.DeleteConsumer(ctx, s.name, durable)
	if gone != nil && !jserr.IsAbsent(gone) {
		s.expectEnd(durable, false)
		return streamError(s.name, op, gone)
	}
	found, err := sidestream.DeleteDurable(ctx, s.bus.core, s.name, durable)
	if err != nil {
		return translate(err)
	}
	if gone != nil && !found {
		return streamError(s.name, op, gone)
	}
	return nil
}
