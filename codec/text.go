package codec

import (
	"encoding"
	"errors"
	"reflect"
	"sync"
	"unicode/utf8"
)

// Text is the codec for text/plain in UTF-8. It supports strings, types based on string, and types
// with the methods of [encoding.TextMarshaler] and [encoding.TextUnmarshaler]. If a type based
// on string has those methods, they are used. Another type or a nil pointer gives a
// *[TypeError]. So does a type with only one of the methods, and a struct that has them from one
// of several fields. If the methods have pointer receivers, use a pointer, for example *big.Int.
//
// Marshal refuses a time whose offset has seconds, as [JSON] does. Marshal and Unmarshal return
// a *[SyntaxError] for text that is not valid UTF-8. Unmarshal also
// returns one if UnmarshalText fails. Empty data gives an empty string.
var Text Codec = textCodec{}

// textCodec is plain text. It has no state.
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

// textOf returns the text of v. It does not check whether that is UTF-8.
func textOf(v any) ([]byte, error) {
	switch x := v.(type) {
	case string:
		return []byte(x), nil
	case encoding.TextMarshaler:
		form := textFormOf(reflect.TypeOf(v))
		if isNilPointer(v) || !form.reads {
			break
		}
		if form.time {
			if err := checkTextTime(v); err != nil {
				return nil, marshalError(textName, v, err)
			}
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

// textForm is what Text knows of a type that writes itself.
type textForm struct {
	reads bool // it can be read from the text that its method writes
	time  bool // the method is that of time.Time
}

var textForms sync.Map // reflect.Type → textForm

// textFormOf returns what is known of t. It can be read if it has a method for that, and if both
// methods are not those of one field of several.
func textFormOf(t reflect.Type) textForm {
	if known, ok := textForms.Load(t); ok {
		return known.(textForm)
	}
	own := behindPointers(t)
	promoted := isPromoted(own, findMarshalText)
	form := textForm{
		reads: t.Kind() == reflect.String || t.Kind() == reflect.Pointer && t.Implements(textUnmarshalerType) ||
			reflect.PointerTo(t).Implements(textUnmarshalerType),
		time: own == timeType || promoted && len(jsonFormat.promotedTimes(own)) > 0,
	}
	if promoted && own.NumField() > 1 {
		form.reads = false
	}
	textForms.Store(t, form)
	return form
}

// checkTextTime returns an error for a time of which the instant would change.
func checkTextTime(v any) error {
	w := inspection{format: jsonFormat}
	return w.inspectTop(v)
}

// Unmarshal sets a string, or calls UnmarshalText. See Codec.
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

// readText calls dst.UnmarshalText.
func readText(data []byte, dst encoding.TextUnmarshaler) error {
	if err := dst.UnmarshalText(data); err != nil {
		return syntaxError(textName, err)
	}
	return nil
}
