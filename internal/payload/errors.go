package payload

import (
	"errors"
	"fmt"
	"strings"

	"github.com/omnibus-go/bus/internal/wire"
)

// ErrUnknown is in the chain of an error about a content type or an encoding that this
// program does not know. A newer version of the program may know it, so another attempt
// makes sense, elsewhere or later.
var ErrUnknown = errors.New("this program does not know it, a newer version may")

// CodecError reports a value that could not be encoded, or a payload that could not be
// decoded.
type CodecError struct {
	Subject     string
	ContentType string // of the codec, or the unknown one
	Encoding    string // the compression, if that failed
	Op          string // "encode" or "decode"
	Err         error
}

func (e *CodecError) Error() string {
	return fmt.Sprintf("subject %q: %s %s%s: %v", e.Subject, e.Op, e.ContentType, e.Encoding, e.Err)
}

// Unwrap returns the error of the codec.
func (e *CodecError) Unwrap() error { return e.Err }

// InvalidError reports a value whose Validate method returned an error.
type InvalidError struct {
	Subject string
	Type    string // the Go type
	Err     error  // what Validate returned
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("subject %q: invalid %s: %v", e.Subject, e.Type, e.Err)
}

// Unwrap returns what Validate returned.
func (e *InvalidError) Unwrap() error { return e.Err }

var errNil = errors.New("it is nil")

// maxErrorText is the maximum length of the text of an error of a codec or a Validate method.
// Such errors can repeat the payload, and go to the log, to events and to spans.
const maxErrorText = 2 << 10

// shortError is an error with a long text, of which it shows the start.
type shortError struct {
	text string
	err  error
}

func (e *shortError) Error() string { return e.text }

// Unwrap returns the error with its whole text.
func (e *shortError) Unwrap() error { return e.err }

// short returns err, with a short text.
func short(err error) error {
	text := err.Error()
	if len(text) <= maxErrorText {
		return err
	}
	return &shortError{strings.ToValidUTF8(strings.Clone(text[:maxErrorText]), "") + "…", err}
}

// markUnknown adds ErrUnknown to an error about an unknown encoding or content type.
func markUnknown(err error) error {
	_, encoding := errors.AsType[*wire.UnknownEncodingError](err)
	_, contentType := errors.AsType[*wire.UnknownContentTypeError](err)
	if encoding || contentType {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}
