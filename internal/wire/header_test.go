package wire_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/omnibus-go/bus/internal/wire"
)

func TestGet(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		h    wire.Header
		want string
	}{
		"nil":                    {nil, ""},
		"absent":                 {wire.Header{"Other": {"x"}}, ""},
		"exact":                  {wire.Header{"Bus-Id": {"a", "b"}}, "a"},
		"lower case":             {wire.Header{"bus-id": {"a"}}, "a"},
		"canonicalised":          {wire.Header{"BUS-ID": {"a"}}, "a"},
		"exact wins":             {wire.Header{"BUS-ID": {"x"}, "Bus-Id": {"a"}, "bus-id": {"y"}}, "a"},
		"first of many":          {wire.Header{"bus-id": {"y"}, "BUS-ID": {"a"}, "bUS-ID": {"z"}}, "a"},
		"exact without values":   {wire.Header{"Bus-Id": {}, "bus-id": {"a"}}, "a"},
		"empty value is a value": {wire.Header{"Bus-Id": {""}, "bus-id": {"a"}}, ""},
	} {
		for range 10 { // maps change their order
			if got := wire.Get(test.h, wire.HeaderBusID); got != test.want {
				t.Errorf("%s: %q, want %q", name, got, test.want)
			}
		}
	}
}

func TestParseContentType(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ value, want string }{
		"plain":             {"application/json", "application/json"},
		"parameters":        {"application/json; charset=utf-8; a=\"b;c\"", "application/json"},
		"broken parameters": {"text/plain;;=\"", "text/plain"},
		"case and blanks":   {" \tApplication/JSON ;x", "application/json"},
		"suffix":            {"application/cloudevents+json", "application/cloudevents+json"},
		"empty":             {"", ""},
		"only parameters":   {"; charset=utf-8", ""},
		"no slash":          {"json", ""},
		"no type":           {"/json", ""},
		"no subtype":        {"application/", ""},
		"two slashes":       {"a/b/c", ""},
		"list":              {"a/b, c/d", ""},
		"inner blank":       {"a /b", ""},
		"line break":        {"a/b\r\nX: y", ""},
		"not ascii":         {"a/ü", ""},
		"very long and bad": {strings.Repeat("x", 10_000), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := wire.ParseContentType(test.value)
			if got != test.want || (err == nil) != (test.want != "") {
				t.Fatalf("got %q, %v, want %q", got, err, test.want)
			}
			if bad, ok := errors.AsType[*wire.ContentTypeError](err); err != nil && (!ok || bad.Value != test.value || len(err.Error()) > 300) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func FuzzParseContentType(f *testing.F) {
	for _, seed := range []string{"", "a/b", "A/B; c=d", "a/b,c/d", "/", ";", "a/\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		media, err := wire.ParseContentType(value)
		if err != nil {
			if _, ok := errors.AsType[*wire.ContentTypeError](err); !ok || media != "" {
				t.Fatalf("%q: %q, %v", value, media, err)
			}
			return
		}
		if again, err := wire.ParseContentType(media); again != media || err != nil {
			t.Fatalf("%q: %q is not stable: %q, %v", value, media, again, err)
		}
		if media != strings.ToLower(media) || strings.ContainsAny(media, "; \t\r\n") {
			t.Fatalf("%q: %q", value, media)
		}
	})
}

func BenchmarkParseContentType(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := wire.ParseContentType("application/json; charset=utf-8"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	h := wire.Header{"Content-Type": {"application/json"}, "traceparent": {"x"}, "Nats-Msg-Id": {"y"}}
	for name, key := range map[string]string{"exact": "Content-Type", "absent": "Bus-Id"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = wire.Get(h, key)
			}
		})
	}
}

// Headers of the server mean something to it.
func TestCheckHeaderOfTheServer(t *testing.T) {
	t.Parallel()
	for key, good := range map[string]bool{
		"Nats-Rollup": true, "nats-rollup": true, "Nats-Schedule": true, "Nats-Expected-Stream": true, "Natsy": true,
		"Nats-Trace-Dest": false, "nats-trace-dest": false, "Nats-Stream-Source": false, "NATS-": false, "Nats-Msg-Id": false, "Nats-TTL": false,
	} {
		if err := wire.CheckHeader(key, "x"); (err == nil) != good {
			t.Errorf("%s: %v", key, err)
		}
	}
}
