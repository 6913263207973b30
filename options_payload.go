package bus

import (
	"fmt"
	"strconv"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/wire"
)

// payloadConfig is what the options say of payloads.
type payloadConfig struct {
	codec       codec.Codec    // of types that imply none
	rules       []payload.Rule // of subjects; the first that matches holds
	codecs      []codec.Codec  // all that the bus can read beside the built-in ones
	compression Compression
}

// WithCodec sets the codec of the types that imply none; the default is
// codec.JSON. Buses that exchange messages should agree on it: what the bus's
// own codec wrote carries no content type only where that is JSON.
func WithCodec(cd codec.Codec) ConnectOption {
	return forConnect(func(c *config) {
		if c.addCodec("WithCodec", cd) {
			c.payload.codec = cd
		}
	})
}

// addCodec adds cd to the codecs of the bus, or reports what is wrong with it.
func (c *config) addCodec(option string, cd codec.Codec) bool {
	if err := wire.CheckCodec(cd); err != nil {
		c.bad(option, contentTypeOf(cd), err.Error())
		return false
	}
	c.payload.codecs = append(c.payload.codecs, cd)
	return true
}

// contentTypeOf names a codec for an error.
func contentTypeOf(cd codec.Codec) string {
	if cd == nil {
		return "nil"
	}
	return strconv.Quote(cd.ContentType())
}

// WithCodecFor sets the codec of all messages on the subjects that pattern
// matches, whatever their type, but for []byte, which is sent and received as it
// is; of several rules the first that matches holds.
func WithCodecFor(pattern string, cd codec.Codec) ConnectOption {
	return forConnect(func(c *config) {
		if p := subject.CheckPattern(pattern); p != nil {
			c.bad("WithCodecFor", strconv.Quote(subject.Original(pattern)), p.Reason+"; "+p.Hint)
			return
		}
		if c.addCodec("WithCodecFor", cd) {
			c.payload.rules = append(c.payload.rules, payload.Rule{Pattern: pattern, Codec: cd})
		}
	})
}

// Compression says how to compress payloads and how much to decompress.
type Compression struct {
	Encoding   string // codec.Zstd, codec.S2 or codec.Gzip; empty: nothing is compressed
	MinSize    int    // payloads of fewer bytes go as they are; 0 means 1024
	MaxDecoded int    // the most bytes a received payload may decompress to; 0 means 64 MiB
}

const (
	defaultMinSize    = 1024
	defaultMaxDecoded = 64 << 20
)

func (c Compression) withDefaults() Compression {
	if c.MinSize == 0 {
		c.MinSize = defaultMinSize
	}
	if c.MaxDecoded == 0 {
		c.MaxDecoded = defaultMaxDecoded
	}
	return c
}

// WithCompression compresses payloads of at least MinSize bytes where that makes
// them smaller. Decompression of what arrives needs no option.
func WithCompression(comp Compression) ConnectOption {
	return forConnect(func(c *config) {
		switch comp.Encoding {
		case "", codec.Zstd, codec.S2, codec.Gzip:
		default:
			c.bad("WithCompression", strconv.Quote(comp.Encoding), "use codec.Zstd, codec.S2 or codec.Gzip")
		}
		if comp.MinSize < 0 || comp.MaxDecoded < 0 {
			c.bad("WithCompression", fmt.Sprintf("%+v", comp), "sizes must not be negative")
		}
		c.payload.compression = comp
	})
}
