package bus

import (
	"fmt"
	"slices"
	"strings"

	"github.com/omnibus-go/bus/internal/plural"
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
	if slices.ContainsFunc(e.Fields, func(c FieldChange) bool { return c.Needs == streamdef.NeedsAllowShrink }) {
		text += "; if a newer version of the program made the stream, give each version a Revision instead: then an older one leaves the stream as it is"
	}
	return text
}

// UnsupportedError is returned if the server or the stream does not support what a call
// needs:
//   - Connect, within a *ConnectError, if the server is too old for the library, and each
//     call that it is too old for: see the table in docs/modes.md. Call needs a server of
//     Version or newer. Nothing was sent.
//   - Bus.Stream and Stream.Plan, if the server does not know some Fields of the
//     configuration. A server before 2.12 would ignore them silently.
//   - PublishTo and its variants, if the stream was declared without one of the Fields.
//     Nothing was stored.
type UnsupportedError struct {
	Call    string   // the call or option: "Connect", "Pause", "TTL", …; empty for Bus.Stream and Stream.Plan
	Stream  string   // the stream that Fields are about
	Fields  []string // fields of StreamConfig, or of the server's configuration if Raw sets them
	Level   int      // the JetStream API level that is needed; 0 if unknown
	Have    int      // the server's API level, of Bus.Stream and Stream.Plan
	Version string   // the first nats-server that has it; empty if unknown
	Server  string   // the version of the connected server, of a Call that it is too old for

	// Changed reports that Bus.Stream applied the rest of the configuration: the server
	// ignored the Fields without an error. Otherwise nothing was changed.
	Changed bool
	Err     error // the server's answer; nil if it was not asked or ignored the fields

	instead string // what can be done without it
}

// Error says what is not supported, and what to do.
func (e *UnsupportedError) Error() string {
	switch {
	case e.Server != "" && e.Version == "":
		return fmt.Sprintf("bus: %s: %s", e.Call, e.instead)
	case e.Server != "":
		return fmt.Sprintf("bus: %s needs nats-server %s or newer, and the server is %s: upgrade the server, %s", e.Call, e.Version, shown(e.Server), e.instead)
	case e.Call != "":
		return fmt.Sprintf("bus: stream %q was declared without %s: set it in the StreamConfig and declare it again with Bus.Stream", e.Stream, strings.Join(e.Fields, ", "))
	}
	text := fmt.Sprintf("bus: stream %q: the server does not know %s", e.Stream, strings.Join(e.Fields, ", "))
	if e.Level > 0 {
		text += fmt.Sprintf(" (it has API level %d, they need %d)", e.Have, e.Level)
	}
	newer := "a newer server"
	if e.Version != "" {
		newer = "nats-server " + e.Version + " or newer"
	}
	text += ": use " + newer + ", or leave them out; "
	if e.Changed {
		return text + "it took the rest"
	}
	return text + "nothing was changed"
}

// Unwrap returns Err.
func (e *UnsupportedError) Unwrap() error { return e.Err }

// Removal is what a change of a stream deletes of the messages that are stored now.
type Removal struct {
	Messages uint64 // at least
	Bytes    uint64 // of these messages, as the server counts them, at least; 0 if unknown
	More     bool   // it may be more; false: Messages is exact
}

// String returns the removal as text: "at least 3 messages (120 bytes)".
func (r Removal) String() string {
	switch {
	case r.Messages == 0 && r.More:
		return "an unknown number of messages"
	case r.Messages == 0:
		return "no messages"
	}
	text := plural.Of(r.Messages, "message", "messages")
	if r.Bytes > 0 {
		text += fmt.Sprintf(" (%s)", plural.Of(r.Bytes, "byte", "bytes"))
	}
	if r.More {
		return "at least " + text
	}
	return text
}

// ConflictError is returned when a message was not stored because the last sequence is not
// the expected one (ExpectLastSequence, ExpectLastSubjectSequence, ExpectLastSequenceOf).
// Read what is there, decide again, and publish with Actual.
//
// It is also returned when an item of a batch has a MsgID that the stream knows from another
// message, or that an earlier item has. Then MsgID is set and nothing was stored.
type ConflictError struct {
	Stream   string
	Subject  string // the subject or filter of the expectation; empty for the whole stream
	Expected uint64
	Actual   uint64 // the last sequence when the stream refused the message; 0 for none. With MsgID the message that has it; 0 for an item of the same batch
	MsgID    string // empty if the conflict is about a sequence

	err *StreamError
}

func (e *ConflictError) Error() string {
	switch {
	case e.MsgID != "" && e.Actual == 0:
		return fmt.Sprintf("bus: stream %q: two items have the MsgID %.64q; a batch stores all of its items or none", e.Stream, e.MsgID)
	case e.MsgID != "":
		return fmt.Sprintf("bus: stream %q: message %d has the MsgID %.64q already; a batch stores all of its items or none, leave that one out", e.Stream, e.Actual, e.MsgID)
	}
	what := ""
	if e.Subject != "" {
		what = fmt.Sprintf(" of %.200q", e.Subject)
	}
	return fmt.Sprintf("bus: stream %q: the last sequence%s is %d, not %d as expected; nothing was stored, read what is there and decide again", e.Stream, what, e.Actual, e.Expected)
}

// Unwrap returns the server's answer, a *StreamError, or nil.
func (e *ConflictError) Unwrap() error {
	if e.err == nil {
		return nil
	}
	return e.err
}

// ItemError says which item of a batch an error is about. Nothing was stored.
type ItemError struct {
	Index int // from 0
	Err   error
}

func (e *ItemError) Error() string {
	return fmt.Sprintf("bus: PublishToBatch: item %d: %s", e.Index, inner(e.Err))
}

// Unwrap returns what is wrong with the item: *SubjectError, *PayloadError, ….
func (e *ItemError) Unwrap() error { return e.Err }
