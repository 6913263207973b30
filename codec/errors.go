package codec

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// TypeError is returned when a codec cannot carry values of a Go type, or when the
// destination of Unmarshal is not a non-nil pointer to a type that it can fill.
// It is the program's mistake: the same call fails again.
type TypeError struct {
	Codec string       // the codec's short name, such as "protobuf"
	Type  reflect.Type // the type that was given; nil for a nil interface
	Want  string       // what the codec takes
}

// Error names the type and what to give instead.
func (e *TypeError) Error() string {
	name := "nil"
	if e.Type != nil {
		name = e.Type.String()
	}
	return fmt.Sprintf("codec: %s cannot use %s: want %s", e.Codec, name, e.Want)
}

// SyntaxError is returned when data is malformed in the codec's format or does not fit
// the destination. It is the data's mistake: decoding the same data again fails again.
// Marshal returns it for values that are already encoded and wrongly so, such as a
// json.RawMessage that is not JSON.
type SyntaxError struct {
	Codec string // the codec's short name, such as "json"
	Err   error  // what the format's library said; never nil
}

// Error says what is wrong with the data.
func (e *SyntaxError) Error() string {
	if _, ok := errors.AsType[*json.UnmarshalTypeError](e.Err); ok {
		return fmt.Sprintf("codec: %s: the data does not fit, does its sender have the same type for this subject? %v", e.Codec, e.Err)
	}
	return fmt.Sprintf("codec: %s: malformed data: %v", e.Codec, e.Err)
}

// Unwrap returns the library's error.
func (e *SyntaxError) Unwrap() error { return e.Err }

// marshalError reports a value that has an encodable type and cannot be encoded.
func marshalError(codec string, v any, err error) error {
	return fmt.Errorf("codec: %s: cannot encode %T: %w", codec, v, err)
}
