package sidestream

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/wire"
)

// The headers of a copy.
const (
	headerSubject    = "Bus-Origin-Subject"  // of the original
	headerSequence   = "Bus-Origin-Sequence" // in its stream
	headerStream     = "Bus-Origin-Stream"   // that stream
	headerTime       = "Bus-Origin-Time"     // when it was stored, RFC 3339 with nanoseconds
	headerAttempts   = "Bus-Attempts"        // handler calls that failed
	headerDeadLetter = "Bus-Dead-Letter"     // of a redriven message: the sequence of its dead letter
	headerCause      = "Bus-Dead-Cause"      // of a dead letter
	headerError      = "Bus-Dead-Error"      // of a dead letter, one line
	headerSize       = "Bus-Dead-Size"       // of a dead letter without payload and headers: the payload's bytes

	escaped = "Bus-Was-" // before the name of a header that would mean something in a copy
)

// reserved are the prefixes of header names that mean something to the server or here.
var reserved = []string{"Nats-", "Bus-Origin-", "Bus-Attempts", "Bus-Dead-", escaped}

// MaxError is how many bytes of an error's text a copy keeps.
const MaxError = 1024

// Copy is a message in a side stream: the original, and what became of it.
type Copy struct {
	Subject    string
	Header     wire.Header
	Data       []byte
	Stream     string
	Sequence   uint64
	Time       time.Time // when the original was stored
	Attempts   int       // handler calls that failed
	DeadLetter uint64    // the sequence of the dead letter that it was; 0 for none

	Cause string // of a dead letter: the kind of failure
	Error string // of a dead letter: the text of the failure

	// Reference says that the copy has no Header and no Data, since they do not fit. The
	// original still has them; its Data has Size bytes.
	Reference bool
	Size      int
}

// CopyOf returns a copy of d after a number of failed handler calls.
func CopyOf(d *wire.Delivery, attempts int) *Copy {
	return &Copy{Subject: d.Subject, Header: d.Header, Data: d.Data, Stream: d.Stored.Stream,
		Sequence: d.Stored.Sequence, Time: d.Stored.Time, Attempts: attempts, DeadLetter: d.Stored.DeadLetter}
}

// Message returns the copy as a message that is stored if its subject has none. See
// ExpectLast.
func (c *Copy) Message(subject string) wire.Out {
	h := make(wire.Header, len(c.Header)+8)
	set := func(key, value string) { h[key] = []string{value} }
	data := c.Data
	if c.Reference {
		set(headerSize, strconv.Itoa(len(data)))
		data = nil
	} else {
		c.addOriginalHeader(h)
	}
	set(headerSubject, c.Subject)
	set(headerStream, c.Stream)
	set(headerSequence, strconv.FormatUint(c.Sequence, 10))
	set(headerTime, c.Time.UTC().Format(time.RFC3339Nano))
	set(headerAttempts, strconv.Itoa(c.Attempts))
	if c.DeadLetter > 0 {
		set(headerDeadLetter, strconv.FormatUint(c.DeadLetter, 10))
	}
	if c.Cause != "" {
		set(headerCause, c.Cause)
		set(headerError, oneLine(c.Error))
	}
	set(wire.HeaderNatsExpectedLastSubjectSequence, "0")
	return wire.Out{Subject: subject, Header: h, Data: data}
}

// ExpectLast changes out, of Copy.Message: it is stored if the last message of its subject
// has this sequence.
func ExpectLast(out *wire.Out, sequence uint64) {
	out.Header[wire.HeaderNatsExpectedLastSubjectSequence] = []string{strconv.FormatUint(sequence, 10)}
}

// addOriginalHeader adds the headers of the original. It escapes reserved names, and names
// that other clients can send but no client written in Go.
func (c *Copy) addOriginalHeader(h wire.Header) {
	for key, values := range c.Header {
		if isReserved(key) || wire.CheckName(key) != nil {
			key = escaped + escape(key)
		}
		h[key] = values
	}
}

// escape replaces each byte that a header name cannot have, and %, by % and two
// hexadecimal digits.
func escape(key string) string {
	var b strings.Builder
	for i := range len(key) {
		if c := key[i : i+1]; c == "%" || wire.CheckName(c) != nil {
			fmt.Fprintf(&b, "%%%02X", key[i])
		} else {
			b.WriteString(c)
		}
	}
	return b.String()
}

// unescape is the reverse of escape. A name that escape did not make stays as it is.
func unescape(name string) string {
	if key, err := url.PathUnescape(name); err == nil {
		return key
	}
	return name
}

func isReserved(key string) bool {
	return slices.ContainsFunc(reserved, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

// oneLine makes text fit for a header.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	return strings.TrimSpace(Shorten(text))
}

// Shorten returns the part of an error's text that a copy keeps, in valid UTF-8.
func Shorten(text string) string { return strings.ToValidUTF8(text[:min(len(text), MaxError)], "") }

// ParseCopy is the reverse of Copy.Message. It returns an error if the message is no copy.
// See bounds.go for what is bounded.
func ParseCopy(h wire.Header, data []byte) (*Copy, error) {
	c := &Copy{Data: data, Subject: first(h, headerSubject), Stream: first(h, headerStream),
		Cause: BoundCause(first(h, headerCause)), Error: Shorten(first(h, headerError))}
	var err error
	if c.Sequence, err = strconv.ParseUint(first(h, headerSequence), 10, 64); err != nil {
		return nil, notACopy(headerSequence, err)
	}
	if c.Time, err = parseTime(first(h, headerTime)); err != nil {
		return nil, notACopy(headerTime, err)
	}
	if c.Attempts, err = parseAttempts(first(h, headerAttempts)); err != nil {
		return nil, notACopy(headerAttempts, err)
	}
	if c.Subject == "" || c.Stream == "" {
		return nil, notACopy(headerSubject, nil)
	}
	c.Header = originalHeader(h)
	if sequence := first(h, headerDeadLetter); sequence != "" {
		if c.DeadLetter, err = strconv.ParseUint(sequence, 10, 64); err != nil {
			return nil, notACopy(headerDeadLetter, err)
		}
	}
	if size := first(h, headerSize); size != "" {
		c.Reference = true
		if c.Size, err = strconv.Atoi(size); err != nil || c.Size < 0 {
			return nil, notACopy(headerSize, err)
		}
	}
	return c, nil
}

func notACopy(header string, err error) error {
	if err == nil {
		return fmt.Errorf("sidestream: not a copy of a message: no header %s", header)
	}
	return fmt.Errorf("sidestream: not a copy of a message: bad header %s: %w", header, err)
}

// originalHeader returns the headers of the original, or nil if it had none.
func originalHeader(h wire.Header) wire.Header {
	var original wire.Header
	for key, values := range h {
		name, renamed := strings.CutPrefix(key, escaped)
		if !renamed && isReserved(key) {
			continue
		}
		if original == nil {
			original = make(wire.Header)
		}
		if renamed {
			name = unescape(name)
		}
		original[name] = values
	}
	return original
}

func first(h wire.Header, key string) string {
	if values := h[key]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// hasOurHeader reports whether a header is one that only this library writes, of any version.
func hasOurHeader(h wire.Header) bool {
	for key := range h {
		if strings.HasPrefix(key, "Bus-") {
			return true
		}
	}
	return false
}

// unreadable returns the error of a message at a position in a side stream. a is its address, as
// far as that is known.
func unreadable(stream string, position uint64, a Address, err error) error {
	return &intake.UnreadableError{Stream: stream, Position: position, Sequence: a.Sequence, Key: a.Key, Err: err}
}
