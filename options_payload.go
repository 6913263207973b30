package bus

import (
	"cmp"
	"fmt"
	"strconv"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/wire"
)

// WithCodec sets the codec of the types that imply none. The default is codec.JSON. Buses
// that exchange messages should have the same codec, because a bus reads messages without a
// content type with its own codec.
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

// WithCodecFor sets the codec of all messages on the subjects that pattern matches,
// whatever their type. Only []byte is sent and received as it is. If several rules match,
// the first one applies.
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
	MaxDecoded int    // the most bytes a received payload may decompress to, with an Encoding at least MinSize; 0 means 64 MiB
}

// WithCompression compresses payloads of at least MinSize bytes if that makes them smaller.
// A bus decompresses messages also without this option.
func WithCompression(comp Compression) ConnectOption {
	return forConnect(func(c *config) {
		switch comp.Encoding {
		case "", codec.Zstd, codec.S2, codec.Gzip:
		default:
			c.bad("WithCompression", strconv.Quote(comp.Encoding), "use \"zstd\", \"s2\" or \"gzip\" (codec.Zstd, codec.S2, codec.Gzip)")
		}
		if comp.MinSize < 0 || comp.MaxDecoded < 0 {
			c.bad("WithCompression", fmt.Sprintf("%+v", comp), "sizes must not be negative")
		}
		if least := cmp.Or(comp.MinSize, defaultMinSize); comp.Encoding != "" && comp.MaxDecoded > 0 && comp.MaxDecoded < least {
			c.bad("WithCompression", fmt.Sprintf("%+v", comp), fmt.Sprintf("MaxDecoded must be at least MinSize, %d: the bus could read nothing of what it compresses", least))
		}
		c.payload.encoding = comp.Encoding
		c.payload.minSize = cmp.Or(comp.MinSize, defaultMinSize)
		c.payload.maxDecoded = cmp.Or(comp.MaxDecoded, defaultMaxDecoded)
	})
}

// codecOption is an option of a message, a handler or Replay.
type codecOption interface {
	MessageOption
	HandlerOption
	ReplayOption
}

// asOption is what As returns.
type asOption struct{ codec codec.Codec }

// As encodes the message with c, whatever its type and the rules of the bus say. As an option
// of a handler or of Replay it sets the codec for messages without a content type.
func As(c codec.Codec) codecOption { //nolint:revive // callers only pass it on
	return asOption{c}
}

func (a asOption) apply(o *sendOptions) {
	if err := a.check(); err != nil {
		o.addError(err)
		return
	}
	o.codec = a.codec
}

func (a asOption) check() error {
	if err := wire.CheckCodec(a.codec); err != nil {
		return &OptionError{Option: "As", Value: contentTypeOf(a.codec), Reason: err.Error()}
	}
	return nil
}

func (a asOption) onPublish(o *sendOptions) { a.apply(o) }

func (a asOption) onRequest(o *sendOptions) { a.apply(o) }

func (a asOption) onStore(o *sendOptions) { a.apply(o) }

func (a asOption) onHandler(o *handlerOptions) {
	if err := a.check(); err != nil {
		o.addError(err)
		return
	}
	o.codec = a.codec
}

func (a asOption) onSubscribe(o *handlerOptions) { a.onHandler(o) }

func (a asOption) onRespond(o *handlerOptions) { a.onHandler(o) }

func (a asOption) onConsume(o *consumeOptions) { a.onHandler(&o.handlerOptions) }

func (a asOption) onReplay(o *replayOptions) {
	if err := a.check(); err != nil {
		o.addError(err)
		return
	}
	o.codec = a.codec
}
