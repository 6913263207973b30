package dead

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/omnibus-go/bus/internal/wire"
)

// The headers of a copy.
const (
	headerSubject  = "Bus-Origin-Subject"  // of the original
	headerSequence = "Bus-Origin-Sequence" // in its stream
	headerStream   = "Bus-Origin-Stream"   // that stream
	headerTime     = "Bus-Origin-Time"     // when it was stored, RFC 3339 with nanoseconds
	headerAttempts = "Bus-Attempts"        // handler calls that failed
	headerCause    = "Bus-Dead-Cause"      // of a dead letter
	headerError    = "Bus-Dead-Error"      // of a dead letter, one line

	was = "Bus-Was-" // before the name of a header that would mean something in a copy
)

// meaning are the beginnings of names that mean something to the server or here.
var meaning = []string{"Nats-", "Bus-Origin-", "Bus-Attempts", "Bus-Dead-", was}

// MaxError is how many bytes of an error's text a copy keeps.
const MaxError = 1024

// Copy is a message that was put aside: what it was, and what became of it.
type Copy struct {
	Subject  string
	Header   wire.Header
	Data     []byte
	Stream   string
	Sequence uint64
	Time     time.Time // when it was stored
	Attempts int       // handler calls that failed

	Cause string // of a dead letter: what kind of failure
	Error string // of a dead letter: its text
}

// Out returns the copy as a message, for whose subject it is the first.
func (c *Copy) Out(subject string) wire.Out {
	h := make(wire.Header, len(c.Header)+8)
	for key, values := range c.Header {
		if means(key) {
			key = was + key
		}
		h[key] = values
	}
	set := func(key, value string) { h[key] = []string{value} }
	set(headerSubject, c.Subject)
	set(headerStream, c.Stream)
	set(headerSequence, strconv.FormatUint(c.Sequence, 10))
	set(headerTime, c.Time.UTC().Format(time.RFC3339Nano))
	set(headerAttempts, strconv.Itoa(c.Attempts))
	if c.Cause != "" {
		set(headerCause, c.Cause)
		set(headerError, oneLine(c.Error))
	}
	set(wire.HeaderNatsExpectedLastSubjectSequence, "0")
	return wire.Out{Subject: subject, Header: h, Data: c.Data}
}

func means(key string) bool {
	return slices.ContainsFunc(meaning, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

// oneLine makes text fit for a header.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > MaxError {
		text = strings.ToValidUTF8(text[:MaxError], "")
	}
	return strings.TrimSpace(text)
}

// Parse returns the copy that a message holds. An error means that it is none.
func Parse(h wire.Header, data []byte) (*Copy, error) {
	c := &Copy{Data: data, Subject: first(h, headerSubject), Stream: first(h, headerStream),
		Cause: first(h, headerCause), Error: first(h, headerError)}
	var err error
	if c.Sequence, err = strconv.ParseUint(first(h, headerSequence), 10, 64); err != nil {
		return nil, notOurs(headerSequence, err)
	}
	if c.Time, err = time.Parse(time.RFC3339Nano, first(h, headerTime)); err != nil {
		return nil, notOurs(headerTime, err)
	}
	if c.Attempts, err = strconv.Atoi(first(h, headerAttempts)); err != nil || c.Attempts < 0 {
		return nil, notOurs(headerAttempts, err)
	}
	if c.Subject == "" || c.Stream == "" {
		return nil, notOurs(headerSubject, nil)
	}
	c.Header = original(h)
	return c, nil
}

func notOurs(header string, err error) error {
	if err == nil {
		return fmt.Errorf("dead: not a message that this library put aside: no header %s", header)
	}
	return fmt.Errorf("dead: not a message that this library put aside: bad header %s: %w", header, err)
}

// original returns the headers that the original had, nil for none.
func original(h wire.Header) wire.Header {
	var o wire.Header
	for key, values := range h {
		name, renamed := strings.CutPrefix(key, was)
		if !renamed && means(key) {
			continue
		}
		if o == nil {
			o = make(wire.Header)
		}
		o[name] = values
	}
	return o
}

func first(h wire.Header, key string) string {
	if values := h[key]; len(values) > 0 {
		return values[0]
	}
	return ""
}
