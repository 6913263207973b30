package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// Delete removes the stream from the server with all its messages and consumers, and its
// side streams S-dead (the dead letters), S-retry and S-keys. Consumers of the stream end:
// see Consumer.Err. A call after an error goes on with what is left.
//
// Errors: ErrStreamNotFound where nothing of it was there, *StreamError, ErrTimeout,
// ErrClosed.
func (s *Stream) Delete(ctx context.Context) error {
	if err := s.callable(ctx, "Delete"); err != nil {
		return err
	}
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	gone := s.bus.core.JetStream.DeleteStream(ctx, s.name)
	if gone != nil && !errors.Is(gone, jetstream.ErrStreamNotFound) {
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

// PurgeFilter chooses messages of a stream. Those that fit all fields that are set
// are removed; the zero value takes all.
type PurgeFilter struct {
	Subject string // on subjects that match this pattern
	Before  uint64 // with a lower sequence than this
	Keep    int    // but for so many of the latest; not together with Before
}

func (f *PurgeFilter) check() error {
	var errs []error
	if f.Subject != "" {
		errs = append(errs, checkPattern(f.Subject))
	}
	if f.Keep < 0 {
		errs = append(errs, &OptionError{Option: "PurgeFilter.Keep", Value: fmt.Sprint(f.Keep), Reason: "must not be negative"})
	}
	if f.Keep > 0 && f.Before > 0 {
		errs = append(errs, &OptionError{Option: "PurgeFilter.Keep", Value: fmt.Sprint(f.Keep), Reason: "Before is given, too; leave one of the two out"})
	}
	return errors.Join(errs...)
}

// Purge removes the messages that fit f for good, and returns how many those were. The
// sequences go on where they were. Consumers skip what they have not handled of it;
// dead letters and messages that wait for another attempt in S-retry stay.
//
// Errors: *OptionError and *SubjectError about f, ErrStreamNotFound, *StreamError (a
// sealed stream, or one made to deny it), ErrTimeout, ErrClosed. After ErrTimeout it
// may have happened; it can be repeated.
func (s *Stream) Purge(ctx context.Context, f PurgeFilter) (int, error) {
	if err := s.callable(ctx, "Purge"); err != nil {
		return 0, err
	}
	if err := f.check(); err != nil {
		return 0, err
	}
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	if f.Before > 0 { // beyond the last one the server would skip sequences
		st, err := s.bus.core.JetStream.Stream(ctx, s.name)
		if err != nil {
			return 0, streamError(s.name, "look up", err)
		}
		f.Before = min(f.Before, st.CachedInfo().State.LastSeq+1)
	}
	return s.bus.purge(ctx, s.name, f)
}

// purge asks the server itself: jetstream keeps the number to itself.
func (b *Bus) purge(ctx context.Context, stream string, f PurgeFilter) (int, error) {
	request, err := json.Marshal(jetstream.StreamPurgeRequest{Subject: f.Subject, Sequence: f.Before, Keep: uint64(f.Keep)})
	if err != nil {
		return 0, streamError(stream, "purge", err)
	}
	reply, err := b.core.Link.Request(ctx, &wire.Out{Subject: "$JS.API.STREAM.PURGE." + stream, Data: request})
	if err != nil {
		return 0, streamError(stream, "purge", err)
	}
	var answer struct {
		Purged int                 `json:"purged"`
		Error  *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return 0, streamError(stream, "purge", err)
	}
	if answer.Error != nil {
		return 0, streamError(stream, "purge", answer.Error)
	}
	return answer.Purged, nil
}

// DeleteConsumer removes a durable consumer from the server: its position, its messages in
// S-retry that wait for another attempt, its crash marks, and its lease in S-keys. Its dead
// letters stay. Consumers with this durable end: see Consumer.Err. A later Consume with the
// name starts from the beginning. A call after an error goes on with what is left.
//
// Errors: *OptionError about the name, *StreamError (Code 404 where there is no such
// consumer or stream), ErrTimeout, ErrClosed.
func (s *Stream) DeleteConsumer(ctx context.Context, durable string) error {
	if err := s.callable(ctx, "DeleteConsumer"); err != nil {
		return err
	}
	if !streamName.MatchString(durable) {
		return &OptionError{Option: "DeleteConsumer durable", Value: quoted(durable), Reason: "use 1 to 200 letters, digits, - and _"}
	}
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	gone := s.bus.core.JetStream.DeleteConsumer(ctx, s.name, durable)
	if gone != nil && !isAbsent(gone) {
		return streamError(s.name, "delete the consumer", gone)
	}
	found, err := sidestream.DeleteDurable(ctx, s.bus.core, s.name, durable)
	if err != nil {
		return translate(err)
	}
	if gone == nil || found {
		return nil
	}
	return streamError(s.name, "delete the consumer", gone)
}

func isAbsent(err error) bool {
	return errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, ErrStreamNotFound)
}
