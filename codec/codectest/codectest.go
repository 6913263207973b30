// Package codectest tests that a codec keeps the promises of [codec.Codec].
//
//	func TestMsgpack(t *testing.T) {
//		codectest.Run(t, Msgpack, Order{ID: 7}, map[string]int{"a": 1}, "text")
//	}
//
// Run it with -race: one of the rules calls the codec from many goroutines.
package codectest

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/omnibus-go/bus/codec"
)

// Suite is the conformance test of one codec. It does not change the values, but reads
// them from several goroutines.
type Suite struct {
	// Codec is the codec under test.
	Codec codec.Codec

	// Values are the values that it must carry, of the types that it is made for. At least
	// one; zero values, empty ones and large ones find most.
	Values []any

	// Malformed is data that it must refuse, whatever the destination's type. Empty for
	// codecs that take any bytes.
	Malformed [][]byte

	// Equal tells whether a decoded value is the one that was encoded. Nil means: proto.Equal
	// for protobuf messages, the method Equal of types that have one (as time.Time does),
	// otherwise reflect.DeepEqual.
	Equal func(a, b any) bool
}

// Run tests c with values, as Suite{Codec: c, Values: values}.Run does.
func Run(t *testing.T, c codec.Codec, values ...any) {
	t.Helper()
	Suite{Codec: c, Values: values}.Run(t)
}

// Run tests each rule in a subtest of the rule's name.
func (s Suite) Run(t *testing.T) {
	t.Helper()
	if err := s.usable(); err != nil {
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

// Check tests all rules and returns what was broken: a *Violation for each rule, joined,
// or nil. It is Run without a testing.T.
func (s Suite) Check() error {
	if err := s.usable(); err != nil {
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
	Rule string // the name of the rule, which is the name of its subtest
	Err  error  // what happened, with the value at fault
}

// Error names the rule and what happened.
func (v *Violation) Error() string { return fmt.Sprintf("codectest: %s: %v", v.Rule, v.Err) }

// Unwrap returns what happened.
func (v *Violation) Unwrap() error { return v.Err }

// usable tells what is missing in the suite itself.
func (s Suite) usable() error {
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

func (s Suite) check(r rule) error {
	return protect(func() error { return r.check(s) })
}

// marshal and unmarshal turn a panic of the codec into an error that says so.

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

func (s Suite) unmarshal(data []byte, v any) error {
	err := protect(func() error { return s.Codec.Unmarshal(data, v) })
	if err != nil {
		return fmt.Errorf("Unmarshal(%s, %T): %w", describe(data), v, err)
	}
	return nil
}

// decode returns data as a value of the type of like. It gives data away.
func (s Suite) decode(data []byte, like any) (any, error) {
	dst := reflect.New(reflect.TypeOf(like))
	if err := s.unmarshal(data, dst.Interface()); err != nil {
		return nil, err
	}
	return dst.Elem().Interface(), nil
}

// wantEqual returns an error unless got is want.
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

// callEqual calls a's method Equal(T) bool, if a, a non-nil T, has it.
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

func protect(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &panicError{r}
		}
	}()
	return f()
}

func panicked(err error) bool {
	_, ok := errors.AsType[*panicError](err)
	return ok
}

// describe prints a value, shortened.
func describe(v any) string {
	const most = 200
	text := fmt.Sprintf("%T %+v", v, v)
	if b, ok := v.([]byte); ok {
		text = fmt.Sprintf("%q", b)
	}
	if len(text) > most {
		text = text[:most] + "…"
	}
	return text
}
