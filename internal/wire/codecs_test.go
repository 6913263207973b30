package wire_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/wire"
)

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
		"application/json":              mine,
		"Application/JSON; charset=x":   mine,
		"application/x-mine":            second,
		"application/cbor":              codec.CBOR,
		" text/plain;charset=us-ascii":  codec.Text,
		"application/vnd.x.y+json":      mine,
		"Application/Problem+JSON; a=b": mine,
		"application/vnd.x+cbor":        codec.CBOR,
	} {
		if got, err := set.ByContentType(ct); got != want || err != nil {
			t.Errorf("%q: %v, %v", ct, got, err)
		}
	}
	_, err := set.ByContentType("Application/X-Other; v=1")
	if unknown, ok := errors.AsType[*wire.UnknownContentTypeError](err); !ok || unknown.ContentType != "application/x-other" {
		t.Errorf("unknown: %v", err)
	}
	for _, other := range []string{"application/vnd.x+xml", "application/json+", "application/+json+zip", "text/json"} {
		if c, err := set.ByContentType(other); c != nil || err == nil {
			t.Errorf("%q: %v, %v", other, c, err)
		}
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
