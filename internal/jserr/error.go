package jserr

import (
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// Error says which operation on which stream failed.
type Error struct {
	Stream string
	Op     string // "publish", "create", …
	Err    error  // the server's answer, or why there is none
}

// Wrap returns an *Error, or nil if err is nil.
func Wrap(stream, op string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Stream: stream, Op: op, Err: err}
}

func (e *Error) Error() string { return fmt.Sprintf("stream %q: %s: %v", e.Stream, e.Op, e.Err) }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// Refusal is the server's negative answer to a message or a request that the library sent
// itself, and not through jetstream.
type Refusal struct {
	Code        int    `json:"code"`     // a status as of HTTP
	Number      int    `json:"err_code"` // one of the numbers of this package
	Description string `json:"description"`
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s (%d/%d)", r.Description, r.Code, r.Number)
}

// ErrorType is the error.type of traces and metrics: the name of the public error.
func (r *Refusal) ErrorType() string {
	if IsWrongLastSequence(r) {
		return "bus.ConflictError"
	}
	return "bus.StreamError"
}

// Codes returns the status and the number of the server's answer in err, or zeros if err
// is no answer of the server.
func Codes(err error) (code, number int) {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Code, r.Number
	}
	if r, ok := errors.AsType[*jetstream.APIError](err); ok {
		return r.Code, int(r.ErrorCode)
	}
	return 0, 0
}

// Is reports whether err is an answer of the server with one of the numbers.
func Is(err error, numbers ...int) bool {
	_, number := Codes(err)
	return number != 0 && slices.Contains(numbers, number)
}

// IsWrongLastSequence reports whether the server refused a message because the last
// sequence of the stream or subject is not the expected one.
func IsWrongLastSequence(err error) bool {
	return Is(err, WrongLastSequence, WrongLastSequenceBusy)
}

// IsAbsent reports whether the stream or the consumer does not exist.
func IsAbsent(err error) bool { return Is(err, StreamNotFound, ConsumerNotFound) }

// IsFull reports whether the server refused a message or a stream because there is no memory
// or disk for it within the limits of the account or the server.
func IsFull(err error) bool {
	return Is(err, AccountLimits, ServerLimits, MemoryReserved, StorageReserved)
}
