package codec

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// maxPath is how much of the path to a part of a value an error shows, in bytes.
const maxPath = 200

// pathError says in which part of a value something is wrong.
type pathError struct {
	path string // such as "Items[3].Price"; what encloses that comes first
	err  error
}

func (e *pathError) Error() string { return "in " + e.path + ": " + e.err.Error() }
func (e *pathError) Unwrap() error { return e.err }

// below adds to err, about a part of a value, where that part is. part is a field, or an index
// in brackets.
func below(part string, err error) error {
	p, ok := err.(*pathError) //nolint:errorlint // nothing wraps one
	if !ok {
		return &pathError{path: part, err: err}
	}
	p.path = joinPath(part, p.path)
	return p
}

// joinPath returns the path to a part of a part. Of a long one the end is shown.
func joinPath(part, rest string) string {
	switch {
	case len(rest) > maxPath:
		return rest
	case len(part)+len(rest) > maxPath:
		return "…" + strings.ToValidUTF8(rest[max(len(rest)-maxPath, 0):], "")
	case rest == "" || rest[0] == '[':
		return part + rest
	}
	return part + "." + rest
}

// indexOf names an element of a list, or the value of a key of a map.
func indexOf(key any) string {
	if text, ok := key.(string); ok {
		return fmt.Sprintf("[%q]", shorten(text, 40))
	}
	return "[" + shorten(fmt.Sprint(key), 40) + "]"
}

// keyOf names the value of a key of a map.
func keyOf(key reflect.Value) string {
	if key.Kind() == reflect.String {
		return indexOf(key.String())
	}
	if key.CanInterface() && isScalar(key) {
		return indexOf(key.Interface())
	}
	return "[]"
}

// atPath returns e for a part of a value of type t. path leads to it.
func (e *TypeError) atPath(path string) *TypeError {
	part := *e
	part.Field = joinPath(path, e.Field)
	return &part
}

// located returns err, about a part of a value of type t, as the error of prepare.
func (f *format) located(v any, err error) error {
	refused, ok := errors.AsType[*TypeError](err)
	if !ok {
		return marshalError(f.name, v, err)
	}
	if p, ok := err.(*pathError); ok { //nolint:errorlint // nothing wraps one
		refused = refused.atPath(p.path)
	}
	return refused.in(reflect.TypeOf(v))
}
