package payload

import (
	"errors"
	"fmt"

	"github.com/omnibus-go/bus/internal/wire"
)

// ErrUnknown is in the chain of an error about a content type or an encoding that this
// program does not know. A newer version of the program may know it, so another attempt
// makes sense, elsewhere or later.
var ErrUnknown = errors.New("this program does not know it, a newer one may")

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

// markUnknown adds ErrUnknown to an error about an unknown encoding or content type.
func markUnknown(err error) error {
	_, encoding := errors.AsType[*wire.UnknownEncodingError](err)
	_, contentType := errors.AsType[*wire.UnknownContentTypeError](err)
	if encoding || contentType {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}
