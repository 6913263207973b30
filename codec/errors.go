package codec

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// TypeError is the error for a Go type that a codec does not support. It is also the error for a
// destination of Unmarshal that is not a non-nil pointer to a supported type. It is a mistake in
// the program, and a retry fails again.
type TypeError struct {
	Codec string       // the short name of the codec, for example "protobuf"
	Type  reflect.Type // the unsupported type; nil for a nil interface
	In    reflect.Type // the type of the value if Type is a part of it; otherwise nil
	Field string       // where in the value Type is: "Items[].Price"; empty if that is not known
	Want  string       // what the codec supports
}

// Error returns a text with the type and the supported types.
func (e *TypeError) Error() string {
	name := "nil"
	if e.Type != nil {
		name = e.Type.String()
	}
	if e.In != nil {
		name += " in " + e.In.String()
	}
	if e.Field != "" {
		name += " (" + e.Field + ")"
	}
	return fmt.Sprintf("codec: %s cannot use %s: want %s", e.Codec, name, e.Want)
}

// in returns e for a value of type t that has e.Type as a part.
func (e *TypeError) in(t reflect.Type) *TypeError {
	if behindPointers(t) == e.Type {
		return e
	}
	whole := *e
	whole.In = t
	return &whole
}

// SyntaxError is the error for data that is malformed or does not fit the destination. The data
// is wrong, and a retry with the same data fails again. Marshal returns it for a value that is
// already encoded and malformed, for example a json.RawMessage that is not JSON.
type SyntaxError struct {
	Codec string // the short name of the codec, for example "json"
	Err   error  // of the library of the format, with a long text cut; never nil
}

// Error returns a text with what is wrong. A long one is cut.
func (e *SyntaxError) Error() string {
	text := shorten(e.Err.Error(), maxErrorText)
	if _, ok := errors.AsType[*json.UnmarshalTypeError](e.Err); ok {
		return fmt.Sprintf("codec: %s: the data does not fit, does its sender have the same type for this subject? %s", e.Codec, text)
	}
	return fmt.Sprintf("codec: %s: malformed data: %s", e.Codec, text)
}

// Unwrap returns the error of the library.
func (e *SyntaxError) Unwrap() error { return e.Err }

// marshalError returns the error for a value of a supported type that cannot be encoded.
func marshalError(codec string, v any, err error) error {
	return fmt.Errorf("codec: %s: cannot encode %T: %w", codec, v, shortError(err))
}

// syntaxError returns the error of Unmarshal for an error of a library.
func syntaxError(codec string, err error) error {
	return &SyntaxError{Codec: codec, Err: shortError(err)}
}

// maxErrorText is the maximum length of the text of a library's error. Some errors repeat the data,
// which can be many megabytes.
const maxErrorText = 512

// shortError returns err, or an error with the beginning of its text if the text is long.
func shortError(err error) error {
	if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		short := *mismatch
		short.Value, short.Field = shorten(short.Value, 128), shorten(short.Field, 128)
		return &short
	}
	if text := err.Error(); len(text) > maxErrorText {
		return errors.New(shorten(text, maxErrorText))
	}
	return err
}

// shorten returns text, cut after n bytes.
func shorten(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(strings.Clone(text[:n]), "") + "…"
}
