package codec

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// TypeError is the error for a Go type that a codec does not support. It is also the error for a
// destination of Unmarshal that is not a non-nil pointer to a supported type. It is a mistake in
// the program, and a retry fails again.
type TypeError struct {
	Codec string       // the short name of the codec, for example "protobuf"
	Type  reflect.Type // the type of the value; nil for a nil interface
	Want  string       // what the codec supports
}

// Error returns a text with the type and the supported types.
func (e *TypeError) Error() string {
	name := "nil"
	if e.Type != nil {
		name = e.Type.String()
	}
	return fmt.Sprintf("codec: %s cannot use %s: want %s", e.Codec, name, e.Want)
}

// SyntaxError is the error for data that is malformed or does not fit the destination. The data
// is wrong, and a retry with the same data fails again. Marshal returns it for a value that is
// already encoded and malformed, for example a json.RawMessage that is not JSON.
type SyntaxError struct {
	Codec string // the short name of the codec, for example "json"
	Err   error  // of the library of the format; never nil
}

// Error returns a text with what is wrong.
func (e *SyntaxError) Error() string {
	if _, ok := errors.AsType[*json.UnmarshalTypeError](e.Err); ok {
		return fmt.Sprintf("codec: %s: the data does not fit, does its sender have the same type for this subject? %v", e.Codec, e.Err)
	}
	return fmt.Sprintf("codec: %s: malformed data: %v", e.Codec, e.Err)
}

// Unwrap returns the error of the library.
func (e *SyntaxError) Unwrap() error { return e.Err }

// marshalError returns the error for a value of a supported type that cannot be encoded.
func marshalError(codec string, v any, err error) error {
	return fmt.Errorf("codec: %s: cannot encode %T: %w", codec, v, err)
}
