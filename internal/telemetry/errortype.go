package telemetry

import (
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
)

const otherError = "_OTHER"

// errorType returns the class of err, which is not nil, for error.type. There are
// few classes:
//
//   - "timeout" for a deadline exceeded, or what has Timeout() == true;
//   - "canceled" for a canceled context;
//   - what its ErrorType() string method returns, as in OpenTelemetry's own helper;
//   - the type of the innermost error that has one of its own, such as
//     "bus.SubjectError";
//   - "_OTHER" for text without a type.
func errorType(err error) string {
	var timeout interface{ Timeout() bool }
	var named interface{ ErrorType() string }
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.As(err, &named) && named.ErrorType() != "":
		return named.ErrorType()
	}
	if name := innermostType(err); name != "" {
		return name
	}
	return otherError
}

// innermostType returns the type of the last error in err's chain that is not a
// mere text or wrapper of the standard library. Of several branches the first
// that has one counts.
func innermostType(err error) string {
	for _, inner := range unwrap(err) {
		if inner == nil {
			continue
		}
		if name := innermostType(inner); name != "" {
			return name
		}
	}
	t := reflect.TypeOf(err)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if pkg := t.PkgPath(); pkg == "errors" || pkg == "fmt" {
		return ""
	}
	return strings.TrimLeft(t.String(), "*")
}

func unwrap(err error) []error {
	switch e := err.(type) { //nolint:errorlint // it walks the chain itself
	case interface{ Unwrap() error }:
		return []error{e.Unwrap()}
	case interface{ Unwrap() []error }:
		return e.Unwrap()
	}
	return nil
}
