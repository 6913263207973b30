// Package codectest tests whether a type is a correct [codec.Codec].
//
//	func TestMsgpack(t *testing.T) {
//		codectest.Run(t, Msgpack, Order{ID: 7}, map[string]int{"a": 1}, "text")
//	}
//
// Run the test with -race: one of the rules calls the codec from many goroutines.
package codectest

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/omnibus-go/bus/codec"
)

// Suite is the conformance test of one codec. It reads the values from several goroutines and does
// not change them.
type Suite struct {
	// Codec is the codec under test.
	Codec codec.Codec

	// Values are values that the codec must encode and decode. There must be at least one.
	// Zero values, empty values and large values find most mistakes.
	Values []any

	// Edge are values that the codec must carry or refuse: Marshal returns an error, or
	// Unmarshal returns an equal value. If it is nil, the suite uses EdgeValues. A codec
	// that cannot tell lists those values that matter to it.
	Edge []any

	// Malformed is data that Unmarshal must refuse for destinations of all types. It is empty
	// for a codec that accepts all data.
	Malformed [][]byte

	// Equal reports whether a decoded value is equal to the encoded one. If it is nil, the
	// suite uses proto.Equal for protobuf messages, the method Equal if the type has one (as
	// time.Time has), and otherwise reflect.DeepEqual.
	Equal func(a, b any) bool
}

// Run tests c with values. It is the same as Suite{Codec: c, Values: values}.Run(t).
func Run(t *testing.T, c codec.Codec, values ...any) {
	t.Helper()
	Suite{Codec: c, Values: values}.Run(t)
}

// Run tests each rule in a subtest with the name of the rule.
func (s Suite) Run(t *testing.T) {
	t.Helper()
	if err := s.validate(); err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			t.Helper()
			if err := s.check(rule); err != nil {
				t.Error(err)
			}
		})
	}
}

// Check tests all rules without a testing.T. It returns a *Violation for each rule that the codec
// breaks, joined with errors.Join, or nil.
func (s Suite) Check() error {
	if err := s.validate(); err != nil {
		return err
	}
	var broken []error
	for _, rule := range rules {
		if err := s.check(rule); err != nil {
			broken = append(broken, &Violation{Rule: rule.name, Err: err})
		}
	}
	return errors.Join(broken...)
}

// Violation is a rule that a codec breaks.
type Violation struct {
	Rule string // the name of the rule and of its subtest
	Err  error  // what happened, and with which value
}

// Error returns a text with the rule and what happened.
func (v *Violation) Error() string { return fmt.Sprintf("codectest: %s: %v", v.Rule, v.Err) }

// Unwrap returns Err.
func (v *Violation) Unwrap() error { return v.Err }

// validate returns an error if a field of the suite is missing or invalid.
func (s Suite) validate() error {
	if s.Codec == nil {
		return errors.New("codectest: Suite.Codec is nil")
	}
	if len(s.Values) == 0 {
		return errors.New("codectest: no values; give some that the codec must carry")
	}
	for i, v := range s.Values {
		if v == nil {
			return fmt.Errorf("codectest: value %d is an untyped nil; give a typed value", i)
		}
	}
	return nil
}

// check checks one rule.
func (s Suite) check(r rule) error {
	return protect(func() error { return r.check(s) })
}

// marshal calls the codec and returns a panic as an error.
func (s Suite) marshal(v any) (data []byte, err error) {
	err = protect(func() (err error) {
		data, err = s.Codec.Marshal(v)
		return err
	})
	if err != nil {
		err = fmt.Errorf("Marshal(%s): %w", describe(v), err)
	}
	return data, err
}

// unmarshal calls the codec and returns a panic as an error.
func (s Suite) unmarshal(data []byte, v any) error {
	err := protect(func() error { return s.Codec.Unmarshal(data, v) })
	if err != nil {
		return fmt.Errorf("Unmarshal(%s, %T): %w", describe(data), v, err)
	}
	return nil
}

// decode decodes data into a value of the type of like. The caller must not use data afterwards.
func (s Suite) decode(data []byte, like any) (any, error) {
	dst := reflect.New(reflect.TypeOf(like))
	if err := s.unmarshal(data, dst.Interface()); err != nil {
		return nil, err
	}
	return dst.Elem().Interface(), nil
}

// wantEqual returns an error if got is not equal to want.
func (s Suite) wantEqual(got, want any) error {
	equal := s.Equal
	if equal == nil {
		equal = defaultEqual
	}
	if !equal(got, want) {
		return fmt.Errorf("got %s, want %s", describe(got), describe(want))
	}
	return nil
}

// defaultEqual is Equal if the suite has none.
func defaultEqual(a, b any) bool {
	if x, ok := a.(proto.Message); ok {
		y, ok := b.(proto.Message)
		return ok && proto.Equal(x, y)
	}
	if same, ok := callEqual(a, b); ok {
		return same
	}
	return reflect.DeepEqual(a, b)
}

// callEqual calls the method Equal(T) bool of a. ok is false if a has no such method or is nil.
func callEqual(a, b any) (same, ok bool) {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	if va.Type() != vb.Type() || va.Kind() == reflect.Pointer && (va.IsNil() || vb.IsNil()) {
		return false, false
	}
	method := va.MethodByName("Equal")
	if !method.IsValid() {
		return false, false
	}
	t := method.Type()
	if t.IsVariadic() || t.NumIn() != 1 || t.In(0) != vb.Type() || t.NumOut() != 1 || t.Out(0).Kind() != reflect.Bool {
		return false, false
	}
	return method.Call([]reflect.Value{vb})[0].Bool(), true
}

// panicError is a panic of the codec.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// protect calls f and returns a panic as an error.
func protect(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &panicError{r}
		}
	}()
	return f()
}

// panicked reports whether err is a panic of the codec.
func panicked(err error) bool {
	_, ok := errors.AsType[*panicError](err)
	return ok
}

// describe returns the start of v as text.
func describe(v any) string {
	const shown = 200
	var text string
	if b, ok := v.([]byte); ok {
		text = fmt.Sprintf("%q", b[:min(len(b), shown)])
	} else {
		text = fmt.Sprintf("%T %+v", v, v)
	}
	if len(text) > shown {
		text = text[:shown] + "…"
	}
	return text
}
