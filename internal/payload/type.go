package payload

import (
	"reflect"

	"github.com/omnibus-go/bus/codec"
)

// Type is what a Format knows about a Go type.
type Type struct {
	Implied codec.Codec // the codec that the type implies, or nil

	name      string
	raw       bool // a byte slice: takes any payload as it is
	validates bool // it or a pointer to it has a Validate method
}

type validator interface{ Validate() error }

var validatorType = reflect.TypeFor[validator]()

// TypeOf returns what f knows about T. It looks at each type once.
func TypeOf[T any](f *Format) *Type {
	t := reflect.TypeFor[T]()
	if known, ok := f.types.Load(t); ok {
		return known.(*Type)
	}
	return f.addType(t)
}

func (f *Format) addType(t reflect.Type) *Type {
	implied := codec.ForType(t)
	info := &Type{
		Implied:   implied,
		name:      t.String(),
		raw:       implied == codec.Raw,
		validates: t.Implements(validatorType) || reflect.PointerTo(t).Implements(validatorType),
	}
	f.types.Store(t, info)
	return info
}

// assumed returns the codec that a reader assumes who knows only the type.
func (t *Type) assumed() codec.Codec {
	if t.Implied != nil {
		return t.Implied
	}
	return codec.JSON
}

// validate calls the Validate method of the value that pointer points to, if the value or
// the pointer has one. A nil pointer has no value to validate, so it is invalid. subj is for
// the error.
func (t *Type) validate(subj string, pointer any) error {
	if !t.validates {
		return nil
	}
	check, ok := pointer.(validator)
	if !ok {
		v := reflect.ValueOf(pointer).Elem()
		if check, ok = v.Interface().(validator); !ok || isNil(check) {
			return &InvalidError{Subject: subj, Type: t.name, Err: errNil}
		}
	}
	if err := check.Validate(); err != nil {
		return &InvalidError{Subject: subj, Type: t.name, Err: short(err)}
	}
	return nil
}

func isNil(v any) bool {
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Pointer && r.IsNil()
}
