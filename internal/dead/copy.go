package dead

import (
	"fmt"
	"net/url"
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
	headerLetter   = "Bus-Dead-Letter"     // of what was one: its sequence among the dead letters
	headerCause    = "Bus-Dead-Cause"      // of a dead letter
	headerError    = "Bus-Dead-Error"      // of a dead letter, one line
	headerSize     = "Bus-Dead-Size"       // of a dead letter without payload and headers: the payload's bytes

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
	Letter   uint64    // the sequence of the dead letter that it was; 0 where it was none

	Cause string // of a dead letter: what kind of failure
	Error string // of a dead letter: its text

	// Reference says that Header and Data are not in the copy, since they do not fit.
	// They are where they were; Data has Size bytes there.
	Reference bool
	Size      int
}

// Out returns the copy as a message, which is stored if its subject has none.
func (c *Copy) Out(subject string) wire.Out {
	h := make(wire.Header, len(c.Header)+8)
	set := func(key, value string) { h[key] = []string{value} }
	data := c.Data
	if c.Reference {
		set(headerSize, strconv.Itoa(len(data)))
		data = nil
	} else {
		c.addHeader(h)
	}
	set(headerSubject, c.Subject)
	set(headerStream, c.Stream)
	set(headerSequence, strconv.FormatUint(c.Sequence, 10))
	set(headerTime, c.Time.UTC().Format(time.RFC3339Nano))
	set(headerAttempts, strconv.Itoa(c.Attempts))
	if c.Letter > 0 {
		set(headerLetter, strconv.FormatUint(c.Letter, 10))
	}
	if c.Cause != "" {
		set(headerCause, c.Cause)
		set(headerError, oneLine(c.Error))
	}
	set(wire.HeaderNatsExpectedLastSubjectSequence, "0")
	return wire.Out{Subject: subject, Header: h, Data: data}
}

// After has out, of Out, stored where the latest message of its subject has this
// sequence.
func After(out *wire.Out, sequence uint64) {
	out.Header[wire.HeaderNatsExpectedLastSubjectSequence] = []string{strconv.FormatUint(sequence, 10)}
}

// addHeader adds the headers of the original. Names that mean something in a copy, and
// names that others can send but no client of Go, are kept in another form.
func (c *Copy) addHeader(h wire.Header) {
	for key, values := range c.Header {
		if means(key) || wire.CheckName(key) != nil {
			key = was + escape(key)
		}
		h[key] = values
	}
}

// escape writes what cannot stand in a name as % and two digits, and % itself.
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

// unescape is the reverse of escape. What that has not written stays as it is.
func unescape(name string) string {
	if key, err := url.PathUnescape(name); err == nil {
		return key
	}
	return name
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
	return strings.TrimSpace(Shorten(text))
}

// Shorten returns as much of an error's text as a copy keeps, in valid UTF-8.
func Shorten(text string) string { return strings.ToValidUTF8(text[:min(len(text), MaxError)], "") }

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
	if letter := first(h, headerLetter); letter != "" {
		if c.Letter, err = strconv.ParseUint(letter, 10, 64); err != nil {
			return nil, notOurs(headerLetter, err)
		}
	}
	if size := first(h, headerSize); size != "" {
		c.Reference = true
		if c.Size, err = strconv.Atoi(size); err != nil || c.Size < 0 {
			return nil, notOurs(headerSize, err)
		}
	}
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
		if renamed {
			name = unescape(name)
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
