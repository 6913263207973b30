package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/plural"
	"github.com/omnibus-go/bus/stats"
)

var (
	// ErrClosed is returned by every use of a bus, subscription or consumer
	// after it was closed.
	ErrClosed = errors.New("bus: closed")
	// ErrTimeout is returned when an operation was not done by the deadline of its context,
	// or within the timeout of the bus (WithTimeout) if the context has none. Such errors
	// also match context.DeadlineExceeded.
	ErrTimeout = errors.New("bus: timeout")
	// ErrNoResponders is returned by Request when nobody serves the subject.
	ErrNoResponders = errors.New("bus: no responders: nobody serves this subject; is the responder running and connected to the same server?")
	// ErrUnknownOutcome is returned when a message was sent and the answer was lost: it may
	// have been stored or handled. A PublishTo with a MsgID can be called again with the
	// same MsgID: the message is not stored twice, unless the server restarted, see MsgID.
	// Without a MsgID only the stream knows the outcome, and for a Request only the
	// responder.
	ErrUnknownOutcome = errors.New("bus: unknown outcome: the message was sent and the answer was lost")
	// ErrBufferFull is returned by PublishAsync when its buffer is full and WithAsyncBuffer
	// has NoWait.
	ErrBufferFull = errors.New("bus: the buffer of PublishAsync is full: publish slower, use Publish, or enlarge it with WithAsyncBuffer")
	// ErrStreamNotFound is returned for a stream that the server does not have.
	ErrStreamNotFound = errors.New("bus: stream not found")
	// ErrDisconnected is returned when the connection is lost and the buffer for that time
	// (8 MiB) is full. Shutdown returns it if messages in that buffer are lost, and Flush
	// if the connection was lost before the server confirmed.
	ErrDisconnected = errors.New("bus: disconnected from the server")
)

// inner is the text of an error within another one, which says "bus: " already.
func inner(err error) string { return strings.TrimPrefix(err.Error(), "bus: ") }

// OptionError reports an option or an argument with a value that cannot be used. A call
// reports all wrong options at once, joined.
type OptionError struct {
	Option string // the option ("WithListen"), or the call whose argument is wrong ("Subscribe")
	Value  string // the value as given; empty for an argument, which Reason names
	Reason string // what is wrong and what would be right
}

func (e *OptionError) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("bus: %s: %s", e.Option, e.Reason)
	}
	return fmt.Sprintf("bus: %s(%.200s): %s", e.Option, e.Value, e.Reason)
}

// badArgument is the error of an argument that no call can work with.
func badArgument(call, arg, reason string) *OptionError {
	return &OptionError{Option: call, Reason: arg + " " + reason}
}

// noContext is the error of a call without a context.
func noContext(call string) error {
	return badArgument(call, "ctx", "is nil; use context.Background()")
}

// SubjectError reports a subject that cannot be used as it was: its text is wrong, or the
// server refuses it to this connection because a permission is missing (then it matches
// nats.ErrPermissionViolation). Nobody got the message.
type SubjectError struct {
	Subject string
	Reason  string
	Hint    string // what to write or do instead; may be empty

	err error // the server's answer, or nil
}

func (e *SubjectError) Error() string {
	s := fmt.Sprintf("bus: subject %.200q: %s", e.Subject, e.Reason)
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Unwrap returns the server's refusal, or nil.
func (e *SubjectError) Unwrap() error { return e.err }

// PayloadError reports a message that is larger than the bus may send. The limit is that of
// the server less 8 KiB, which are kept for headers. If it is below 16 KiB, half is kept.
type PayloadError struct {
	Subject string
	Size    int // bytes of the encoded, possibly compressed payload and its headers
	Limit   int
}

func (e *PayloadError) Error() string {
	return fmt.Sprintf("bus: subject %q: the message has %d bytes, the limit is %d; send a reference to the data instead, or raise the limit: WithMaxPayload for the embedded server, max_payload in the configuration of another one", e.Subject, e.Size, e.Limit)
}

// CodecError reports a value that could not be encoded, or a payload that could
// not be decoded. Nothing was sent.
type CodecError struct {
	Subject     string
	ContentType string // of the codec, or the unknown one
	Encoding    string // the compression, where that is what failed
	Op          string // "encode" or "decode"
	Err         error
}

func (e *CodecError) Error() string {
	what := shown(e.ContentType)
	switch {
	case what == "":
		what = shown(e.Encoding)
	case e.Encoding != "":
		what += " in " + shown(e.Encoding)
	}
	return fmt.Sprintf("bus: subject %q: %s %s: %s", e.Subject, e.Op, what, inner(e.Err))
}

// shown makes what others sent fit for a line of text.
func shown(s string) string {
	const most = 64
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// Unwrap returns the codec's own error.
func (e *CodecError) Unwrap() error { return e.Err }

// ValidationError reports a value whose Validate method refused it, on publish
// or on receipt.
type ValidationError struct {
	Subject string
	Type    string // the Go type
	Err     error  // what Validate returned
}

func (e *ValidationError) Error() string {
	return fmt.Sprintf("bus: subject %q: invalid %s: %s", e.Subject, e.Type, inner(e.Err))
}

// Unwrap returns what Validate returned.
func (e *ValidationError) Unwrap() error { return e.Err }

// RemoteError is the error of a responder as the requester sees it. It has the text of an
// error that was made with Public. Other errors are "internal error" here; their text is in
// the log of the responder. If the responder could not decode the request, or its Validate
// refused it, the code is "400". If the responder does not know its content type or
// encoding, the code is "415".
type RemoteError struct {
	Subject string
	Code    string // "500" unless Public said otherwise
	Message string
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("bus: request to %q: %s (%s)", e.Subject, e.Message, e.Code)
}

// PanicError reports a panic of a handler or of another function of the program. If a
// handler ended its goroutine, Value is ErrExited.
type PanicError struct {
	Value any
	Stack []byte // of the goroutine that panicked

	what string // panicked; empty: a handler
}

func (e *PanicError) Error() string {
	if e.Value == ErrExited { //nolint:errorlint // the very one
		return ErrExited.Error()
	}
	return fmt.Sprintf("bus: %s panicked: %v", cmp.Or(e.what, "handler"), e.Value)
}

// Unwrap returns the panic's value if it was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// CapturedError is returned for a subject that a stream stores: by Publish under
// WithStrictPublish, because Publish does not learn whether the message was stored, and by
// Request, because the stream answers before any responder. The message was not sent, except
// by a Request that finds the stream by its answer (Sent).
type CapturedError struct {
	Call    string // "Publish" or "Request"
	Subject string
	Stream  string
	Sent    bool // the bus did not know the stream and sent the request: it may be stored, and responders may have handled it
}

func (e *CapturedError) Error() string {
	what := "use PublishTo, which reports whether it was"
	switch {
	case e.Call == "Request" && e.Sent:
		what = "the stream's acknowledgement came as the reply of the request, which may be stored and handled by responders too; use a subject that no stream stores"
	case e.Call == "Request":
		what = "a request to it would get the stream's acknowledgement as its reply; use a subject that no stream stores"
	}
	return fmt.Sprintf("bus: subject %q is stored by stream %q: %s", e.Subject, e.Stream, what)
}

// UnsentError is returned by Shutdown if messages of PublishAsync may not have reached the
// server, or messages of PublishToAsync may not be stored. The Future of each message has
// its outcome.
type UnsentError struct{ Messages int }

func (e *UnsentError) Error() string {
	return fmt.Sprintf("bus: %s of PublishAsync or PublishToAsync may not have reached the server", plural.Of(e.Messages, "message", "messages"))
}

// DrainError is returned when a subscription or consumer ended before it had handled all
// messages that had arrived. Messages of streams are redelivered. Core messages are lost.
type DrainError struct {
	Subject string     // what was subscribed to
	Stream  string     // of a consumer
	Durable string     // of a consumer
	Pending int        // messages that were not handled
	Running int        // handlers that had not returned
	Longest stats.Call // of a consumer: the one of them that has been running for longest
	Err     error      // why it did not wait longer
}

func (e *DrainError) Error() string {
	what := fmt.Sprintf("subscription to %q", e.Subject)
	if e.Durable != "" {
		what = fmt.Sprintf("consumer %q of stream %q", e.Durable, e.Stream)
	}
	hint := ""
	if e.Running > 0 {
		hint = "; let handlers watch their context or Stopping, or give them more time with the deadline or WithDrainTimeout"
	}
	running := plural.Of(e.Running, "handler", "handlers") + " running"
	if e.Longest.Subject != "" {
		running += fmt.Sprintf(" (%s)", e.Longest)
	}
	return fmt.Sprintf("bus: %s ended with %s unhandled and %s: %s%s", what, plural.Of(e.Pending, "message", "messages"), running, inner(e.Err), hint)
}

// whenGivenUp takes the numbers of the moment when a drain was given up, where its
// reason has them: handlers may have ended since.
func (e *DrainError) whenGivenUp() *DrainError {
	if left, ok := errors.AsType[*intake.LeftBehind](e.Err); ok {
		e.Pending, e.Running, e.Err = left.Pending, left.Running, left.Err
	}
	return e
}

// Unwrap returns why the drain did not wait longer.
func (e *DrainError) Unwrap() error { return e.Err }

// Is reports whether target is ErrTimeout and the drain ended because its time was over.
func (e *DrainError) Is(target error) bool { return isTimeout(target, e.Err) }

// isTimeout reports whether target is ErrTimeout and why is the end of a context's time.
func isTimeout(target, why error) bool {
	return target == ErrTimeout && errors.Is(why, context.DeadlineExceeded) //nolint:errorlint // the very one
}

// ErrExited is the Value of the *PanicError of a handler that ended its goroutine with
// runtime.Goexit instead of returning. FailNow and Fatal of a test do that.
var ErrExited = errors.New("bus: the handler ended its goroutine with runtime.Goexit, as t.FailNow and t.Fatal do; return an error instead")

// optionErrors collects the errors of the options of one call, so that the call reports all
// of them at once. The zero value is ready to use.
type optionErrors struct{ found []error }

// addError adds an error.
func (m *optionErrors) addError(err error) { m.found = append(m.found, err) }

// joined returns nil, the only error, or all errors joined.
func (m *optionErrors) joined() error {
	if len(m.found) == 1 {
		return m.found[0]
	}
	return errors.Join(m.found...)
}

// optionTarget is what options are applied to.
type optionTarget interface {
	addError(error)
	joined() error
}

// applyAll applies opts to target and returns all errors. A nil option is an error.
func applyAll[O any, T optionTarget](opts []O, target T, apply func(O, T)) error {
	for i, opt := range opts {
		if any(opt) == nil {
			target.addError(&OptionError{Option: fmt.Sprintf("option %d", i+1), Value: "nil", Reason: "leave it out"})
			continue
		}
		apply(opt, target)
	}
	return target.joined()
}

// badStreamField is the error of one field of a StreamConfig.
func badStreamField(field string, value any, reason string) error {
	return &OptionError{Option: "StreamConfig." + field, Value: fmt.Sprint(value), Reason: reason}
}

// errNoDisk is the error of a stream on disk on a bus without a store directory.
func errNoDisk() error {
	return badStreamField("Storage", "FileStorage", "this bus keeps its streams in memory; add WithStoreDir, or leave the field out")
}
