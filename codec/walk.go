package codec

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// walk calls check for each part of v that is encoded and has no methods for it, until check
// returns an error. The error of walk says where that part is.
func (f *format) walk(v reflect.Value, check func(reflect.Value) error) error {
	if !v.IsValid() {
		return nil
	}
	if v.Kind() != reflect.Pointer && v.Kind() != reflect.Interface && f.methods(v.Type()).opaque {
		return nil
	}
	if err := check(v); err != nil {
		return err
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return f.walk(v.Elem(), check)
	case reflect.Map:
		for key, item := range v.Seq2() {
			if err := cmp.Or(f.walk(key, check), f.walk(item, check)); err != nil {
				return below(keyOf(key), err)
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := f.walk(v.Index(i), check); err != nil {
				return below(indexOf(i), err)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if !f.isEncoded(field) {
				continue
			}
			if err := f.walk(v.Field(i), check); err != nil {
				return below(field.Name, err)
			}
		}
	}
	return nil
}

var errTextNotUTF8 = errors.New("a string is not valid UTF-8; use []byte for bytes, or strings.ToValidUTF8")

// checkText returns an error if a string in v, which has no cycles, is not valid UTF-8.
func (f *format) checkText(v reflect.Value) error {
	return f.walk(v, func(part reflect.Value) error {
		if part.Kind() == reflect.String && !utf8.ValidString(part.String()) {
			return errTextNotUTF8
		}
		return nil
	})
}

// maxSearched is in how many parts of a value its encodeError looks for the one that is wrong.
// The value may contain itself.
const maxSearched = 100_000

var errNotSearched = errors.New("the value has too many parts")

// encodeError returns the error of Marshal for err, with which a library refused v. It says where
// in v the part is that no format has.
func (f *format) encodeError(v any, want string, err error) error {
	t, refused := refusedType(err)
	if !refused {
		return marshalError(f.name, v, err)
	}
	searched := 0
	found := f.walk(reflect.ValueOf(v), func(part reflect.Value) error {
		if searched++; searched > maxSearched {
			return errNotSearched
		}
		switch part.Kind() {
		case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
			return &TypeError{Codec: f.name, Type: part.Type(), Want: want}
		case reflect.Float32, reflect.Float64:
			if f == jsonFormat && (math.IsNaN(part.Float()) || math.IsInf(part.Float(), 0)) {
				return fmt.Errorf("JSON has no %v; leave the field out with a pointer that is nil, or use codec.CBOR", part.Float())
			}
		}
		return nil
	})
	switch {
	case found != nil && !errors.Is(found, errNotSearched):
		return f.located(v, found)
	case t != nil:
		return &TypeError{Codec: f.name, Type: t, Want: want}
	}
	return marshalError(f.name, v, err)
}

// refusedType reports whether err, of a library, is about a type or a float that its format does not
// have. t is nil for a float.
func refusedType(err error) (t reflect.Type, refused bool) {
	if e, ok := errors.AsType[*json.UnsupportedTypeError](err); ok {
		return e.Type, true
	}
	if e, ok := errors.AsType[*cbor.UnsupportedTypeError](err); ok {
		return e.Type, true
	}
	e, ok := errors.AsType[*json.UnsupportedValueError](err)
	return nil, ok && e.Value.CanFloat()
}
