package sidestream

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// headerFollower is the only header of a follower that waits, besides those of the original. Very
// many may wait, in memory where the stream is, and their subjects have the rest. Its value is the
// time of the original in nanoseconds since 1970, to base 36, the handler calls that failed, and
// the subject of the original.
const headerFollower = "Bus-Origin-Follower"

// shorten replaces the headers of c in out, of Copy.Message, by headerFollower.
func (c *Copy) shorten(out *wire.Out) {
	for _, name := range []string{headerSubject, headerStream, headerSequence, headerTime, headerAttempts} {
		delete(out.Header, name)
	}
	value := strconv.FormatInt(c.Time.UnixNano(), 36) + " " + strconv.Itoa(c.Attempts) + " " + c.Subject
	out.Header[headerFollower] = []string{value}
}

// parseFollower is ParseCopy for the follower of an address.
func parseFollower(h wire.Header, data []byte, a Address) (*Copy, error) {
	value := first(h, headerFollower)
	if value == "" {
		return ParseCopy(h, data)
	}
	parts := strings.SplitN(value, " ", 3)
	if len(parts) != 3 {
		return nil, notACopy(headerFollower, fmt.Errorf("%.100q has not three parts", value))
	}
	nanoseconds, err := strconv.ParseInt(parts[0], 36, 64)
	if err != nil {
		return nil, notACopy(headerFollower, err)
	}
	delete(h, headerFollower)
	h[headerTime] = []string{time.Unix(0, nanoseconds).UTC().Format(time.RFC3339Nano)}
	h[headerAttempts], h[headerSubject] = []string{parts[1]}, []string{parts[2]}
	h[headerStream], h[headerSequence] = []string{a.Stream}, []string{strconv.FormatUint(a.Sequence, 10)}
	return ParseCopy(h, data)
}
