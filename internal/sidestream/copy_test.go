package sidestream

import (
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/omnibus-go/bus/internal/wire"
)

var stored = time.Date(2026, 11, 23, 1, 2, 3, 456789012, time.UTC)

func copyOf(h wire.Header) *Copy {
	return &Copy{Subject: "shop.orders.eu", Header: h, Data: []byte("{}"), Stream: "ORDERS", Sequence: 7,
		Time: stored, Attempts: 3, Cause: "error", Error: "no\r\nluck"}
}

// What a copy says of its original comes back, and nothing of it means anything to
// the server meanwhile.
func TestCopyRoundTrip(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]wire.Header{
		"no headers":        nil,
		"of the user":       {"Tenant": {"a", "b"}, "Bus-Id": {"x"}, "Content-Type": {"a/b"}},
		"of the server":     {"Nats-Msg-Id": {"1"}, "Nats-TTL": {"1s"}, "Nats-Rollup": {"all"}, "Nats-Expected-Last-Sequence": {"9"}},
		"of a copy":         {"Bus-Origin-Subject": {"y"}, "Bus-Dead-Cause": {"z"}, "Bus-Attempts": {"8"}},
		"of a copy's copy":  {"Bus-Was-Nats-Msg-Id": {"1"}, "Bus-Was-Bus-Was-Nats-TTL": {"2"}},
		"without any value": {"Tenant": {}},
		"of others":         {"Tenant ID": {"7"}, "a/b": {"1"}, "Größe": {"2"}, "Bus-Was-a b": {"3"}},
		"with percent":      {"50%": {"1"}, "a%20b": {"2"}, "Nats-%": {"3"}, "Bus-Was-%41": {"4"}, "Bus-Was-50%": {"5"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := maps.Clone(h)
			c := copyOf(h)
			out := c.Message("$OMNIBUS.dead.x")
			if !reflect.DeepEqual(h, before) {
				t.Fatalf("the original's headers were changed: %v", h)
			}
			for key := range out.Header {
				if err := wire.CheckName(key); err != nil {
					t.Errorf("the copy has the header %q: %v", key, err)
				}
				if strings.HasPrefix(key, "Nats-") && key != "Nats-Expected-Last-Subject-Sequence" {
					t.Errorf("the copy has the header %s", key)
				}
			}
			got, err := ParseCopy(out.Header, out.Data)
			if err != nil {
				t.Fatal(err)
			}
			c.Error = "no  luck"
			if !reflect.DeepEqual(got, c) {
				t.Errorf("got  %+v\nwant %+v", got, c)
			}
		})
	}
}

// A copy that only refers to its original keeps nothing of it but its size.
func TestReference(t *testing.T) {
	t.Parallel()
	c := copyOf(wire.Header{"Tenant": {"a"}})
	c.Reference, c.DeadLetter = true, 99
	out := c.Message("s")
	ExpectLast(&out, 5)
	if got := out.Header[wire.HeaderNatsExpectedLastSubjectSequence]; len(got) != 1 || got[0] != "5" || len(out.Data) != 0 || out.Header["Tenant"] != nil {
		t.Errorf("got %+v", out)
	}
	got, err := ParseCopy(out.Header, out.Data)
	if err != nil || !got.Reference || got.Size != 2 || got.DeadLetter != 99 || got.Header != nil || got.Subject != c.Subject {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, bad := range map[string]string{"Bus-Dead-Size": "-1", "Bus-Dead-Letter": "x"} {
		out := c.Message("s")
		out.Header[name] = []string{bad}
		if _, err := ParseCopy(out.Header, nil); err == nil {
			t.Errorf("%s: %s was accepted", name, bad)
		}
	}
}

func TestErrorsOfACopyFitAHeader(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", strings.Repeat("ü", 5000), "a\x00b\xffc", "  x  "} {
		c := copyOf(nil)
		c.Error = text
		got := c.Message("s").Header["Bus-Dead-Error"][0]
		if len(got) > MaxError || !utf8.ValidString(got) || strings.ContainsAny(got, "\r\n\x00") || got != strings.TrimSpace(got) {
			t.Errorf("%.20q became %.40q", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	out := copyOf(wire.Header{"Nats-Msg-Id": {"1"}}).Message("s")
	f.Add(out.Header["Bus-Origin-Subject"][0], "ORDERS", "7", out.Header["Bus-Origin-Time"][0], "3", "Tenant", "x")
	f.Add("", "", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, subject, stream, sequence, at, attempts, key, value string) {
		h := wire.Header{"Bus-Origin-Subject": {subject}, "Bus-Origin-Stream": {stream}, "Bus-Origin-Sequence": {sequence},
			"Bus-Origin-Time": {at}, "Bus-Attempts": {attempts}}
		if _, taken := h[key]; !taken {
			h[key] = []string{value}
		}
		c, err := ParseCopy(h, nil)
		if err != nil {
			return
		}
		again, err := ParseCopy(c.Message("s").Header, nil)
		if err != nil || again.Subject != c.Subject || again.Sequence != c.Sequence || !again.Time.Equal(c.Time) || !reflect.DeepEqual(again.Header, c.Header) {
			t.Fatalf("got %+v, then %+v, %v", c, again, err)
		}
	})
}
