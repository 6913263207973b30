package bus_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/omnibus-go/bus"
)

// Each method of a nil pointer, and of an empty value, returns a typed error or does
// nothing.
func TestZeroValues(t *testing.T) {
	t.Parallel()
	for _, typ := range []reflect.Type{
		reflect.TypeFor[*bus.Bus](), reflect.TypeFor[*bus.Stream](), reflect.TypeFor[*bus.Consumer](),
		reflect.TypeFor[*bus.Subscription](), reflect.TypeFor[*bus.Future](), reflect.TypeFor[*bus.Mux](),
	} {
		for name, v := range map[string]reflect.Value{"nil": reflect.Zero(typ), "empty": reflect.New(typ.Elem())} {
			for i := range typ.NumMethod() {
				t.Run(typ.Elem().Name()+"/"+name+"/"+typ.Method(i).Name, func(t *testing.T) {
					t.Parallel()
					mustTakeNothing(t, v.Method(i))
				})
			}
		}
	}
}

// mustTakeNothing calls a method with nothing but a context.
func mustTakeNothing(t *testing.T, method reflect.Value) {
	t.Helper()
	var args []reflect.Value
	for in := range method.Type().Ins() {
		arg := reflect.Zero(in)
		if arg.Type() == reflect.TypeFor[context.Context]() {
			arg = reflect.ValueOf(context.Background())
		}
		args = append(args, arg)
	}
	call := method.Call
	if method.Type().IsVariadic() {
		call = method.CallSlice
	}
	for _, result := range call(args) {
		switch r := result.Interface().(type) {
		case error:
			mustBeTyped(t, r)
		case <-chan struct{}:
			receive(t, r)
		default:
			if result.Kind() == reflect.Func { // an iterator
				for _, err := range result.Seq2() {
					mustBeTyped(t, err.Interface().(error))
				}
			}
		}
	}
}

func mustBeTyped(t *testing.T, err error) {
	t.Helper()
	typed := false
	for e := err; e != nil; e = errors.Unwrap(e) {
		typed = typed || strings.HasPrefix(reflect.TypeOf(e).String(), "*bus.")
	}
	if !typed || !strings.HasPrefix(err.Error(), "bus: ") {
		t.Errorf("the error is a %T: %v", err, err)
	}
}
