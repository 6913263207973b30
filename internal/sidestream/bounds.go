package sidestream

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/omnibus-go/bus/internal/settle"
)

// Everybody who may publish to $OMNIBUS.> can write into a side stream. So what is read from
// there is bounded here. docs/wire.md lists the bounds.

// MaxAttempts is the highest number of failed attempts that counts.
const MaxAttempts = 1 << 30

// BoundAttempts returns the number from 0 to MaxAttempts that is nearest to n.
func BoundAttempts(n int) int { return min(max(n, 0), MaxAttempts) }

// maxCause is how many bytes of a cause count. Those of the library are shorter.
const maxCause = 32

// BoundCause returns the cause of a failure as it may stand in a header or in a metric.
func BoundCause(cause string) string {
	printable := func(r rune) rune {
		if r > unicode.MaxASCII || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}
	return strings.TrimSpace(strings.Map(printable, cause[:min(len(cause), maxCause)]))
}

// BoundReason bounds the reason of a dead letter that another process has stored. It does
// nothing if r is nil.
func BoundReason(r *settle.DeadReason) {
	if r != nil {
		*r = settle.DeadReason{Cause: BoundCause(r.Cause), Error: Shorten(r.Error), Attempts: BoundAttempts(r.Attempts)}
	}
}

// parseAttempts reads a number of failed attempts.
func parseAttempts(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, err
	}
	return int(min(n, MaxAttempts)), nil
}

// errTime says that a time has no number of nanoseconds.
var errTime = errors.New("the time is before 1970 or after 2262")

// parseTime reads the time at which a message was stored.
func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err == nil && (t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64))) {
		err = errTime
	}
	return t, err
}
