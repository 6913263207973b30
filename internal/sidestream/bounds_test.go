package sidestream

import (
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// What others write into a copy does not lead to numbers that overflow or to endless texts.
func TestNumbersAndTextsOfACopyAreBounded(t *testing.T) {
	t.Parallel()
	for attempts, want := range map[string]int{"3": 3, "9223372036854775807": MaxAttempts, "99999999999999999999": MaxAttempts} {
		h := copyOf(nil).Message("s").Header
		h["Bus-Attempts"] = []string{attempts}
		h["Bus-Dead-Cause"], h["Bus-Dead-Error"] = []string{strings.Repeat("ä\n", 1000)}, []string{strings.Repeat("x", 1<<20)}
		c, err := ParseCopy(h, nil)
		if err != nil || c.Attempts != want || len(c.Cause) > maxCause || len(c.Error) > MaxError {
			t.Errorf("%s attempts: got %.200v, %v", attempts, c, err)
		}
	}
	for header, values := range map[string][]string{
		"Bus-Attempts":    {"-1", "", "x", "1.5"},
		"Bus-Origin-Time": {"0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "2263-01-01T00:00:00Z", "9999-12-31T23:59:59Z"},
	} {
		for _, value := range values {
			h := copyOf(nil).Message("s").Header
			h[header] = []string{value}
			if _, err := ParseCopy(h, nil); err == nil {
				t.Errorf("%s: %q was accepted", header, value)
			}
		}
	}
}

func TestBoundReason(t *testing.T) {
	t.Parallel()
	BoundReason(nil)
	for _, c := range []struct{ attempts, want int }{{-1, 0}, {5, 5}, {math.MaxInt, MaxAttempts}, {math.MinInt, 0}} {
		r := &settle.DeadReason{Cause: "crash loop", Error: "no luck", Attempts: c.attempts}
		if BoundReason(r); *r != (settle.DeadReason{Cause: "crash loop", Error: "no luck", Attempts: c.want}) {
			t.Errorf("got %+v", r)
		}
	}
}

// FuzzCopy reads the headers of dead letters, which have more than the copies of FuzzParse.
func FuzzCopy(f *testing.F) {
	f.Add("3", "2026-11-23T01:02:03Z", "error", "no luck", "17", "99")
	f.Add("99999999999999999999", "9999-12-31T23:59:59Z", "\r\n", "\xff", "-1", "")
	f.Fuzz(func(t *testing.T, attempts, at, cause, text, size, deadLetter string) {
		c, err := ParseCopy(wire.Header{"Bus-Origin-Subject": {"s"}, "Bus-Origin-Stream": {"S"}, "Bus-Origin-Sequence": {"1"}, "Bus-Origin-Time": {at},
			"Bus-Attempts": {attempts}, "Bus-Dead-Cause": {cause}, "Bus-Dead-Error": {text}, "Bus-Dead-Size": {size}, "Bus-Dead-Letter": {deadLetter}}, nil)
		if err != nil {
			return
		}
		if c.Attempts < 0 || c.Attempts > MaxAttempts || c.Size < 0 || len(c.Cause) > maxCause || len(c.Error) > MaxError || !utf8.ValidString(c.Error) || c.Time.UnixNano() < 0 {
			t.Errorf("got %+v", c)
		}
	})
}

func FuzzParseSubject(f *testing.F) {
	f.Add(Address{Stream: "S", Durable: "d", Incarnation: "x", Sequence: 7, Key: KeyToken("k")}.Subject(Retry))
	f.Add(Address{Stream: "S", Durable: "d", Incarnation: "x", Sequence: 7}.StartMark("run"))
	f.Add("$OMNIBUS.retry.S.d.x.99999999999999999999")
	f.Fuzz(func(t *testing.T, subject string) {
		if kind, a, ok := ParseSubject(subject); ok {
			if again, b, ok := ParseSubject(a.Subject(kind)); !ok || again != kind || b != a {
				t.Errorf("%q is %s %+v, then %s %+v", subject, kind, a, again, b)
			}
		}
		_, _ = ParseStartMark(subject)
	})
}
