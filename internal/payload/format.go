package payload

import (
	"sync"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// Rule is the codec of the messages on the subjects that Pattern matches.
type Rule struct {
	Pattern string
	Codec   codec.Codec
}

// Config is what a Format needs.
type Config struct {
	Codec    codec.Codec   // of types that imply none
	Rules    []Rule        // the first that matches a subject counts
	Known    []codec.Codec // what it can read, besides the built-in codecs
	Counters *telemetry.Bus

	Encoding   string // the compression of what is sent; empty for none
	MinSize    int    // smaller payloads are not compressed, bytes
	MaxDecoded int    // limit of a decompressed payload, bytes
}

// Format has the rules by which one bus encodes and decodes. Safe for concurrent use.
type Format struct {
	config Config
	known  *wire.Codecs
	coder  *wire.Coder
	types  sync.Map // reflect.Type → *Type
}

// New returns a Format. The bus makes one when it is opened.
func New(c Config) *Format {
	return &Format{config: c, known: wire.NewCodecs(c.Known...), coder: wire.NewCoder(c.MaxDecoded)}
}

// Encoding returns the compression of what is sent, or "".
func (f *Format) Encoding() string { return f.config.Encoding }

// CodecFor chooses the codec of a message. The order is: what the call says (call, if it is
// not nil), the rule of the subject, what the type implies, the codec of the bus. No rule
// applies to byte slices, which are payloads already.
func (f *Format) CodecFor(subj string, t *Type, call codec.Codec) codec.Codec {
	if call != nil {
		return call
	}
	if t.raw {
		return t.Implied
	}
	for _, r := range f.config.Rules {
		if subject.Matches(r.Pattern, subj) {
			return r.Codec
		}
	}
	if t.Implied != nil {
		return t.Implied
	}
	return f.config.Codec
}
