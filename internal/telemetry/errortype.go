package telemetry

import (
	"context"
	"errors"
	"os"
	"path"
	"reflect"
	"strings"
)

const otherError = "_OTHER"

// errorType returns the class of err for the attribute error.type. err must not be nil. The classes
// are few:
//
//   - "timeout" for an exceeded deadline, and for an error whose method Timeout returns true;
//   - "canceled" for a canceled context;
//   - the result of its method ErrorType() string, as in the helper of OpenTelemetry;
//   - the innermost error type that is not of package errors or fmt and not of an internal
//     package, which users cannot see, for example "bus.SubjectError";
//   - "_OTHER" for other errors.
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

// internalPackages is how the paths of the packages begin that users cannot see.
var internalPackages = path.Dir(reflect.TypeFor[Span]().PkgPath()) + "/"

// innermostType returns the type of the innermost error in the chain of err that is not of package
// errors or fmt or internal, or "". Of several branches it takes the first one with such a type.
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
	switch pkg := t.PkgPath(); {
	case pkg == "errors", pkg == "fmt":
		return ""
	case strings.HasPrefix(pkg, internalPackages) && !strings.HasSuffix(pkg, "_test"):
		return ""
	}
	return strings.TrimLeft(t.String(), "*")
}

// unwrap returns the errors that err wraps.
func unwrap(err error) []error {
	switch e := err.(type) { //nolint:errorlint // the caller walks the chain
	case interface{ Unwrap() error }:
		return []error{e.Unwrap()}
	case interface{ Unwrap() []error }:
		return e.Unwrap()
	}
	return nil
}
