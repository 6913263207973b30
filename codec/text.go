package codec

import (
	"encoding"
	"errors"
	"reflect"
	"unicode/utf8"
)

// Text is text/plain in UTF-8. It takes strings, types based on string, and types that
// implement [encoding.TextMarshaler] and [encoding.TextUnmarshaler], which win over the
// former; everything else, and a nil pointer, is a *[TypeError]. A type whose text methods
// have pointer receivers is carried as a pointer, as in *big.Int.
//
// Text that is not valid UTF-8 is a *[SyntaxError], in both directions, and so is what
// UnmarshalText refuses. Empty data reads as an empty string.
var Text Codec = textCodec{}

type textCodec struct{}

const (
	textName     = "text"
	textWant     = "a string, a type based on string or a non-nil encoding.TextMarshaler"
	textWantDest = "a non-nil pointer to a string, a type based on string or an encoding.TextUnmarshaler"
)

var (
	errNotUTF8          = errors.New("invalid UTF-8; use Raw for bytes")
	textUnmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (textCodec) ContentType() string { return "text/plain" }

func (textCodec) Marshal(v any) ([]byte, error) {
	text, err := textOf(v)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(text) {
		return nil, &SyntaxError{Codec: textName, Err: errNotUTF8}
	}
	return text, nil
}

// textOf returns the text of v, unchecked.
func textOf(v any) ([]byte, error) {
	switch x := v.(type) {
	case string:
		return []byte(x), nil
	case encoding.TextMarshaler:
		if isNilPointer(v) {
			break
		}
		text, err := x.MarshalText()
		if err != nil {
			return nil, marshalError(textName, v, err)
		}
		return text, nil
	default:
		if rv := reflect.ValueOf(v); rv.Kind() == reflect.String {
			return []byte(rv.String()), nil
		}
	}
	return nil, &TypeError{Codec: textName, Type: reflect.TypeOf(v), Want: textWant}
}

func (textCodec) Unmarshal(data []byte, v any) error {
	dst, err := destination(textName, v, textWantDest)
	if err != nil {
		return err
	}
	if !utf8.Valid(data) {
		return &SyntaxError{Codec: textName, Err: errNotUTF8}
	}
	t := dst.Type()
	switch x, ok := v.(encoding.TextUnmarshaler); {
	case ok:
		return readText(data, x)
	case t.Kind() == reflect.String:
		dst.SetString(string(data))
		return nil
	case t.Kind() == reflect.Pointer && t.Implements(textUnmarshalerType):
		fresh := reflect.New(t.Elem())
		dst.Set(fresh)
		return readText(data, fresh.Interface().(encoding.TextUnmarshaler))
	}
	return &TypeError{Codec: textName, Type: reflect.TypeOf(v), Want: textWantDest}
}

func readText(data []byte, dst encoding.TextUnmarshaler) error {
	if err := dst.UnmarshalText(data); err != nil {
		return &SyntaxError{Codec: textName, Err: err}
	}
	return nil
}
