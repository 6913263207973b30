package bus

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/streamdef"
)

// StreamError reports that an operation on a stream, or on one of its consumers, failed.
type StreamError struct {
	Stream    string
	Op        string // the operation: "publish", "create", …
	Code      int    // the status in the server's answer, as in HTTP; 0 if the server did not answer
	ErrorCode int    // the server's number for the error, such as 10071 for a wrong last sequence; 0 likewise
	Err       error  // the server's answer, or why there is none
}

func (e *StreamError) Error() string {
	return fmt.Sprintf("bus: stream %q: %s: %s", e.Stream, e.Op, inner(e.Err))
}

// Unwrap returns Err.
func (e *StreamError) Unwrap() error { return e.Err }

// FieldChange is one field whose value on the server differs from the wanted value. It is
// used for streams (Plan, StreamConflictError) and consumers (ConsumerConflictError).
type FieldChange struct {
	Field, Have, Want string

	// Needs says what a refused change of a stream needs: "AllowShrink", or "a new stream"
	// if the server cannot change the field. It is empty for other changes.
	Needs string
}

// String returns the change as text: "MaxMsgs: have 1000, want 10 (needs AllowShrink)".
func (f FieldChange) String() string {
	text := fmt.Sprintf("%s: have %s, want %s", f.Field, f.Have, f.Want)
	if f.Needs != "" {
		text += fmt.Sprintf(" (needs %s)", f.Needs)
	}
	return text
}

func joinChanges(changes []FieldChange) string {
	texts := make([]string, len(changes))
	for i, c := range changes {
		texts[i] = c.String()
	}
	return strings.Join(texts, "; ")
}

// StreamConflictError is returned by Bus.Stream if the stream exists and a wanted change is
// refused: it could delete messages or make the stream less safe, or the server cannot make
// it. Nothing was changed.
type StreamConflictError struct {
	Stream      string
	Fields      []FieldChange // the refused changes
	WouldRemove Removal       // the messages that the changes would delete with AllowShrink
}

func (e *StreamConflictError) Error() string {
	text := fmt.Sprintf("bus: stream %q exists with another configuration, nothing was changed: %s", e.Stream, joinChanges(e.Fields))
	if e.WouldRemove != (Removal{}) {
		text += fmt.Sprintf("; it would remove %v", e.WouldRemove)
	}
	return text
}

// UnsupportedError is returned if the server or the stream does not support what a call
// needs:
//   - Bus.Stream and Stream.Plan, if the server does not know some Fields of the
//     configuration. A server before 2.12 would ignore them silently.
//   - Consumer.Pause, Resume and Rewind, if the server is too old for the Call. It needs a
//     server of Version or newer.
//   - PublishTo and its variants, if the stream was declared without one of the Fields.
//     Nothing was stored.
type UnsupportedError struct {
	Call    string   // "Pause", "Resume", "Rewind" or "PublishTo"; empty for Bus.Stream and Stream.Plan
	Stream  string   // empty for Pause, Resume and Rewind
	Fields  []string // fields of StreamConfig, or of the server's configuration if Raw sets them
	Level   int      // the JetStream API level that is needed; 0 if unknown
	Have    int      // the server's API level
	Version string   // the first nats-server with that level; empty if unknown

	// Changed reports that Bus.Stream applied the rest of the configuration: the server
	// ignored the Fields without an error. Otherwise nothing was changed.
	Changed bool
	Err     error // the server's answer; nil if it was not asked or ignored the fields
}

func (e *UnsupportedError) Error() string {
	switch {
	case e.Version != "":
		return fmt.Sprintf("bus: %s needs JetStream API level %d, the server has %d: use nats-server %s or newer", e.Call, e.Level, e.Have, e.Version)
	case e.Call != "":
		return fmt.Sprintf("bus: stream %q was declared without %s: set it in the StreamConfig and declare it again with Bus.Stream", e.Stream, strings.Join(e.Fields, ", "))
	}
	text := fmt.Sprintf("bus: stream %q: the server does not know %s", e.Stream, strings.Join(e.Fields, ", "))
	if e.Level > 0 {
		text += fmt.Sprintf(" (it has API level %d, they need %d)", e.Have, e.Level)
	}
	text += ": use a newer server, or leave them out; "
	if e.Changed {
		return text + "it took the rest"
	}
	return text + "nothing was changed"
}

// Unwrap returns Err.
func (e *UnsupportedError) Unwrap() error { return e.Err }

// streamError makes the public error of a failed operation on a stream. It adds what to do
// if the server does not say so.
func streamError(name, op string, err error) *StreamError {
	e := &StreamError{Stream: name, Op: op, Err: err}
	e.Code, e.ErrorCode = jserr.Codes(err)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, nats.ErrNoResponders):
		e.Err = fmt.Errorf("%w: declare it with Bus.Stream (%v)", ErrStreamNotFound, err)
	case e.Code == 0:
		e.Err = translate(err)
	case remedies[e.ErrorCode] != "":
		e.Err = fmt.Errorf("%w; %s", err, remedies[e.ErrorCode])
	}
	return e
}

// remedies says what to do about some of the server's errors, by their numbers.
var remedies = map[int]string{
	jserr.SubjectsOverlap:     "another stream stores one of these already: use that one, or subjects that do not overlap with its",
	jserr.ReplicasUnsupported: "a single server keeps one copy: leave Replicas out, or use a cluster",
}

// definitionError makes the public errors of what streamdef returns. Errors of an overlay
// are public ones already.
func definitionError(err error) error {
	switch e := err.(type) { //nolint:errorlint // streamdef does not wrap them
	case *streamdef.ConflictError:
		return &StreamConflictError{Stream: e.Stream, Fields: fieldChanges(e.Fields), WouldRemove: Removal(e.WouldRemove)}
	case *streamdef.UnsupportedError:
		return &UnsupportedError{Stream: e.Stream, Fields: e.Fields, Level: e.Level, Have: e.Have, Changed: e.Changed, Err: e.Err}
	case *jserr.Error:
		return translate(e)
	}
	if err == streamdef.ErrNoDisk { //nolint:errorlint // likewise
		return errNoDisk()
	}
	return err
}

// fieldChanges returns the public form of changes.
func fieldChanges(changes []streamdef.Change) []FieldChange {
	var public []FieldChange
	for _, c := range changes {
		public = append(public, FieldChange(c))
	}
	return public
}
