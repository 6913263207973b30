package streamdef

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNoDisk is returned for a new stream on disk if the server keeps streams in memory.
var ErrNoDisk = errors.New("the server keeps streams in memory")

// Change is one field whose value on the server differs from the wanted value.
type Change struct {
	Field, Have, Want string
	Needs             string // what a refused change needs (NeedsAllowShrink, NeedsNewStream); else empty
}

// What a refused change needs.
const (
	NeedsAllowShrink = "AllowShrink"  // it may delete messages or make the stream less safe
	NeedsNewStream   = "a new stream" // the server cannot make it
)

// ConflictError reports changes that were refused. Nothing was changed.
type ConflictError struct {
	Stream      string
	Fields      []Change
	WouldRemove Removal // what the changes would delete
}

func (e *ConflictError) Error() string {
	names := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		names[i] = f.Field
	}
	return fmt.Sprintf("stream %q: refused to change %s", e.Stream, strings.Join(names, ", "))
}

// UnsupportedError reports fields that the server does not know.
type UnsupportedError struct {
	Stream  string
	Fields  []string
	Level   int   // the API level that the fields need; 0 if unknown
	Have    int   // the server's API level
	Changed bool  // the server ignored the fields and applied the rest
	Err     error // the server's answer, or nil
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("stream %q: the server does not know %s", e.Stream, strings.Join(e.Fields, ", "))
}

// Unwrap returns the server's answer, or nil.
func (e *UnsupportedError) Unwrap() error { return e.Err }
