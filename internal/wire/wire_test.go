package wire_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/wire"
)

func TestDeliverySize(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		d    wire.Delivery
		want int
	}{
		"empty":     {wire.Delivery{}, 0},
		"no header": {wire.Delivery{In: wire.In{Subject: "abc", Reply: "de", Data: make([]byte, 10)}, Stored: &wire.Stored{Stream: "S"}}, 15},
		"header":    {wire.Delivery{In: wire.In{Subject: "abc", Header: wire.Header{"K": {"v", "ww"}, "Empty": nil}}}, 3 + 6 + 7},
	} {
		if got := test.d.Size(); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

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

// typed is a codec with a content type of its own.
type typed struct {
	codec.Codec
	contentType string
}

func (c typed) ContentType() string { return c.contentType }

func TestCodecs(t *testing.T) {
	t.Parallel()
	mine := typed{codec.JSON, "application/json"}
	first := typed{codec.JSON, "application/x-mine"}
	second := typed{codec.CBOR, "application/x-mine"}
	set := wire.NewCodecs(mine, first, second)
	for ct, want := range map[string]codec.Codec{
		"application/json":             mine,
		"Application/JSON; charset=x":  mine,
		"application/x-mine":           second,
		"application/cbor":             codec.CBOR,
		" text/plain;charset=us-ascii": codec.Text,
	} {
		if got, err := set.ByContentType(ct); got != want || err != nil {
			t.Errorf("%q: %v, %v", ct, got, err)
		}
	}
	_, err := set.ByContentType("Application/X-Other; v=1")
	if unknown, ok := errors.AsType[*wire.UnknownContentTypeError](err); !ok || unknown.ContentType != "application/x-other" {
		t.Errorf("unknown: %v", err)
	}
	for _, garbage := range []string{"", "garbage"} {
		_, err = set.ByContentType(garbage)
		if _, ok := errors.AsType[*wire.ContentTypeError](err); !ok {
			t.Errorf("%q: %v", garbage, err)
		}
	}
}

func TestCheckCodec(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]codec.Codec{
		"nil": nil, "upper case": typed{codec.JSON, "Upper/Case"}, "parameter": typed{codec.JSON, "a/b;c=d"}, "no type": typed{codec.JSON, "json"},
	} {
		err := wire.CheckCodec(c)
		if err == nil || c != nil && !strings.Contains(err.Error(), strconv.Quote(c.ContentType())) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range codec.Builtin() {
		if err := wire.CheckCodec(c); err != nil {
			t.Error(err)
		}
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
