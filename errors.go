package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/registry"
	"github.com/omnibus-go/bus/internal/storedir"
)

var (
	// ErrClosed is returned by every use of a bus, subscription or consumer
	// after it was closed.
	ErrClosed = errors.New("bus: closed")
	// ErrTimeout is returned when an operation was not done by the deadline of
	// its context, or by the bus's default (WithTimeout) where that has none.
	// Such errors also match context.DeadlineExceeded.
	ErrTimeout = errors.New("bus: timeout")
	// ErrNoResponders is returned by Request when nobody serves the subject.
	ErrNoResponders = errors.New("bus: no responders: nobody serves this subject; is the responder running and connected to the same server?")
	// ErrUnknownOutcome is returned when a message was sent and the answer was
	// lost: it may have been stored or handled. For PublishTo, publish again
	// with the MsgID option to be safe; for Request, only the responder knows.
	ErrUnknownOutcome = errors.New("bus: unknown outcome: the message was sent and the answer was lost")
	// ErrBufferFull is returned by PublishAsync when its buffer is full and the
	// bus was told not to wait (WithAsyncBuffer).
	ErrBufferFull = errors.New("bus: the buffer of PublishAsync is full: publish slower, use Publish, or enlarge it with WithAsyncBuffer")
	// ErrStreamNotFound is returned for a stream that the server does not have.
	ErrStreamNotFound = errors.New("bus: stream not found")
	// ErrDisconnected is returned when the connection is down and what it
	// buffers meanwhile (8 MiB) is full, or is lost with the end of the bus; and
	// by Flush when the connection was lost before the server confirmed.
	ErrDisconnected = errors.New("bus: disconnected from the server")
)

// OptionError reports an option with a bad value. New and Connect report all
// of them at once, joined.
type OptionError struct {
	Option string // "WithListen"
	Value  string // the value as given
	Reason string // what is wrong and what would be right
}

func (e *OptionError) Error() string {
	return fmt.Sprintf("bus: %s(%s): %s", e.Option, e.Value, e.Reason)
}

// ArgumentError reports an argument that no call can work with, as a nil handler.
type ArgumentError struct {
	Func   string // "Subscribe"
	Arg    string // "handler"
	Reason string
}

func (e *ArgumentError) Error() string {
	return fmt.Sprintf("bus: %s: %s %s", e.Func, e.Arg, e.Reason)
}

// noContext is the error of a call without a context.
func noContext(call string) error {
	return &ArgumentError{Func: call, Arg: "ctx", Reason: "is nil; use context.Background()"}
}

// SubjectError reports a subject that cannot be used as it was. Nothing was
// sent.
type SubjectError struct {
	Subject string
	Reason  string
	Hint    string // what to write instead; may be empty
}

func (e *SubjectError) Error() string {
	s := fmt.Sprintf("bus: subject %q: %s", e.Subject, e.Reason)
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// PayloadError reports a message that is larger than the bus may send. The
// limit is the server's less 8 KiB, which are kept for headers.
type PayloadError struct {
	Subject string
	Size    int // bytes of the encoded, possibly compressed payload and its headers
	Limit   int
}

func (e *PayloadError) Error() string {
	return fmt.Sprintf("bus: subject %q: the message has %d bytes, the limit is %d; send a reference to the data instead, or raise the limit with WithMaxPayload", e.Subject, e.Size, e.Limit)
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
	what := e.ContentType
	if e.Encoding != "" {
		what += " in " + e.Encoding
	}
	return fmt.Sprintf("bus: subject %q: %s %s: %v", e.Subject, e.Op, what, e.Err)
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
	return fmt.Sprintf("bus: subject %q: invalid %s: %v", e.Subject, e.Type, e.Err)
}

// Unwrap returns what Validate returned.
func (e *ValidationError) Unwrap() error { return e.Err }

// RemoteError is a responder's error as its caller sees it. Only the text of an
// error made with Public travels; any other is "internal error" here and is in
// the responder's log.
type RemoteError struct {
	Subject string
	Code    string // "500" unless Public said otherwise
	Message string
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("bus: request to %q: %s (%s)", e.Subject, e.Message, e.Code)
}

// PanicError is what a handler's panic becomes.
type PanicError struct {
	Value any
	Stack []byte // of the goroutine that panicked
}

func (e *PanicError) Error() string { return fmt.Sprintf("bus: handler panicked: %v", e.Value) }

// Unwrap returns the panic's value if it was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// CapturedError is returned by Publish under WithStrictPublish for a subject
// that a stream stores: Publish cannot tell whether it was stored.
type CapturedError struct {
	Subject string
	Stream  string
}

func (e *CapturedError) Error() string {
	return fmt.Sprintf("bus: subject %q is stored by stream %q: use PublishTo, which reports whether it was", e.Subject, e.Stream)
}

// SlowConsumerError reports messages that were dropped because a subscription's
// handler did not keep up and its pending limits were reached. It comes as an
// event (WithEvents), since no call could return it.
type SlowConsumerError struct {
	Subject string
	Dropped int // messages since the subscription began
}

func (e *SlowConsumerError) Error() string {
	return fmt.Sprintf("bus: subscription to %q is too slow: %d messages dropped so far; make its handler faster, add Concurrency, or raise PendingLimits", e.Subject, e.Dropped)
}

// UnsentError is returned by Shutdown when messages accepted by PublishAsync
// did not reach the server for certain.
type UnsentError struct{ Messages int }

func (e *UnsentError) Error() string {
	return fmt.Sprintf("bus: %d messages of PublishAsync may not have reached the server", e.Messages)
}

// DrainError is returned when a subscription or consumer ended before all it
// had taken in was handled. Messages of streams come again; core messages are lost.
type DrainError struct {
	Subject string // what was subscribed to
	Pending int    // messages that were not handled
	Running int    // handlers that had not returned
	Err     error  // why it did not wait longer
}

func (e *DrainError) Error() string {
	return fmt.Sprintf("bus: subscription to %q ended with %d messages unhandled and %d handlers running: %v", e.Subject, e.Pending, e.Running, e.Err)
}

// Unwrap returns why the drain did not wait longer.
func (e *DrainError) Unwrap() error { return e.Err }

// StartError reports that the embedded server did not start. Err is a
// *ListenError or a *StoreError where that is the reason.
type StartError struct{ Err error }

func (e *StartError) Error() string {
	return "bus: the embedded server did not start: " + strings.TrimPrefix(e.Err.Error(), "bus: ")
}

// Unwrap returns the reason.
func (e *StartError) Unwrap() error { return e.Err }

// ListenError reports an address the embedded server could not listen on.
type ListenError struct {
	Addr string
	Err  error
}

func (e *ListenError) Error() string {
	return fmt.Sprintf("bus: cannot listen on %q: %v; use another address, or port 0 for any free one", e.Addr, e.Err)
}

// Unwrap returns the reason.
func (e *ListenError) Unwrap() error { return e.Err }

// StoreError reports a store directory whose data the server could not read, or
// one it cannot use. Nothing in it was changed.
type StoreError struct {
	Dir string
	Err error
}

func (e *StoreError) Error() string {
	return fmt.Sprintf("bus: store directory %q: %v", e.Dir, e.Err)
}

// Unwrap returns the reason.
func (e *StoreError) Unwrap() error { return e.Err }

// UnmovedError is returned by New when WithURL names a server while the store
// directory holds streams: they would silently be missing there.
type UnmovedError struct {
	Dir     string
	Streams []string
}

func (e *UnmovedError) Error() string {
	return fmt.Sprintf("bus: store directory %q holds the streams %s, which the server of WithURL does not have from here; drop WithURL to use them, or WithStoreDir to leave them behind", e.Dir, strings.Join(e.Streams, ", "))
}

// ConnectError reports a server that could not be reached or refused the
// connection.
type ConnectError struct {
	URL string // without its password
	Err error
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("bus: cannot connect to %s: %v", e.URL, e.Err)
}

// Unwrap returns the reason.
func (e *ConnectError) Unwrap() error { return e.Err }

// LockedError is returned when another bus uses the store directory, in this
// process or another one.
type LockedError = storedir.LockedError

// FieldConflict is one field in which a wanted configuration differs from the
// server's in a way that is not changed silently.
type FieldConflict struct{ Field, Have, Want string }

func (f FieldConflict) String() string {
	return fmt.Sprintf("%s: have %s, want %s", f.Field, f.Have, f.Want)
}

// StreamConflictError is returned by Bus.Stream when the stream exists with a
// configuration that could only be changed by removing messages, or not at all.
// Nothing was changed.
type StreamConflictError struct {
	Stream string
	Fields []FieldConflict
}

func (e *StreamConflictError) Error() string {
	return fmt.Sprintf("bus: stream %q exists with another configuration, nothing was changed: %s", e.Stream, joinFields(e.Fields))
}

// ConsumerConflictError is returned by Consume when the durable exists with
// another configuration. Nothing was changed.
type ConsumerConflictError struct {
	Stream, Durable string
	Fields          []FieldConflict
}

func (e *ConsumerConflictError) Error() string {
	return fmt.Sprintf("bus: consumer %q of stream %q exists with another configuration, nothing was changed: %s; use another name", e.Durable, e.Stream, joinFields(e.Fields))
}

func joinFields(fields []FieldConflict) string {
	texts := make([]string, len(fields))
	for i, f := range fields {
		texts[i] = f.String()
	}
	return strings.Join(texts, "; ")
}

// StreamError reports what the server answered to an operation on a stream or
// one of its consumers.
type StreamError struct {
	Stream string
	Op     string // "publish", "create", …
	Err    error
}

func (e *StreamError) Error() string {
	return fmt.Sprintf("bus: stream %q: %s: %v", e.Stream, e.Op, e.Err)
}

// Unwrap returns the server's answer.
func (e *StreamError) Unwrap() error { return e.Err }

// PublicError is what Public returns: an error of a responder whose text travels
// to the caller, who gets it as a *RemoteError.
type PublicError struct{ Code, Message string }

func (e *PublicError) Error() string { return fmt.Sprintf("%s (%s)", e.Message, e.Code) }

// Public returns an error for a responder to return whose code and message its
// caller receives as a *RemoteError. The code is a short word or number such as
// "404"; both are single-line text, line breaks become blanks. An empty code is
// "500".
func Public(code, message string) error {
	if code == "" {
		code = internalCode
	}
	return &PublicError{Code: oneLine(code), Message: oneLine(message)}
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\r' || r == '\n' {
			return ' '
		}
		return r
	}, s)
}

// retryAfter is a handler error that says when to try again.
type retryAfter struct {
	delay time.Duration
	err   error
}

func (e *retryAfter) Error() string { return e.err.Error() }
func (e *retryAfter) Unwrap() error { return e.err }

// RetryAfter returns err for a Consume handler to return so that the message
// comes again after d, instead of when the retry policy says. A nil err stays nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryAfter{delay: max(d, 0), err: err}
}

// ended is the error of a call whose ctx has ended: in which way, and its cause
// where that says more.
func ended(ctx context.Context) error {
	err := translate(ctx.Err())
	if cause := context.Cause(ctx); !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// translate turns what the layers below return into the errors above, keeping
// the original in the chain.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, link.ErrShut), errors.Is(err, outlet.ErrEnded), errors.Is(err, registry.ErrClosed),
		errors.Is(err, nats.ErrConnectionClosed):
		return fmt.Errorf("%w (%v)", ErrClosed, err)
	case errors.Is(err, outlet.ErrUnknown), errors.Is(err, nats.ErrDisconnected):
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w (%w)", ErrNoResponders, err)
	case errors.Is(err, outlet.ErrFull):
		return ErrBufferFull
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionReconnecting),
		errors.Is(err, link.ErrDisconnected):
		return fmt.Errorf("%w: %w", ErrDisconnected, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("%w: %w", ErrTimeout, context.DeadlineExceeded)
	default:
		return err
	}
}
