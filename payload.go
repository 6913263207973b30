package bus

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// payloadReserve is what a payload must leave of the server's limit: room for
// the headers that a dead letter or a trace adds.
const payloadReserve = 8 << 10

// maxPayload is the most bytes that a message of the bus may have: the server's
// limit less the reserve, of which a small limit leaves half.
func (b *Bus) maxPayload() int {
	limit := b.core.Link.MaxPayload()
	return limit - min(payloadReserve, limit/2)
}

// format turns values into payloads and back, by the rules of one bus.
type format struct {
	codec       codec.Codec
	rules       []codecRule
	known       *wire.Codecs
	compression Compression
	coder       *wire.Coder
	counters    *telemetry.Bus
	types       sync.Map // reflect.Type → *typeInfo
}

func newFormat(c *config, counters *telemetry.Bus) *format {
	comp := c.payload.compression.withDefaults()
	return &format{
		codec:       c.payload.codec,
		rules:       c.payload.rules,
		known:       wire.NewCodecs(c.payload.codecs...),
		compression: comp,
		coder:       wire.NewCoder(comp.MaxDecoded),
		counters:    counters,
	}
}

type validator interface{ Validate() error }

var validatorType = reflect.TypeFor[validator]()

// typeInfo is what follows from a Go type alone.
type typeInfo struct {
	name      string
	implied   codec.Codec // nil where the bus's own codec decides
	raw       bool        // a byte slice, which takes any payload as it is
	validates bool
}

func typeOf[T any](f *format) *typeInfo {
	t := reflect.TypeFor[T]()
	if info, ok := f.types.Load(t); ok {
		return info.(*typeInfo)
	}
	implied := codec.ForType(t)
	info := &typeInfo{
		name:      t.String(),
		implied:   implied,
		raw:       implied == codec.Raw,
		validates: t.Implements(validatorType) || reflect.PointerTo(t).Implements(validatorType),
	}
	f.types.Store(t, info)
	return info
}

// codecFor chooses the codec for a subject: what the call says, the subject's
// rule, what the type implies, the bus's own. Bytes are a payload already, to
// which no rule applies.
func (f *format) codecFor(subj string, info *typeInfo, call codec.Codec) codec.Codec {
	if call != nil {
		return call
	}
	if info.raw {
		return info.implied
	}
	for _, r := range f.rules {
		if subject.Matches(r.pattern, subj) {
			return r.codec
		}
	}
	if info.implied != nil {
		return info.implied
	}
	return f.codec
}

// plain is the codec that a reader assumes for a type without a content type.
func (info *typeInfo) plain() codec.Codec {
	if info.implied != nil {
		return info.implied
	}
	return codec.JSON
}

// encode makes m, which is empty, the message with v for the literal subject subj. It
// fills one of the caller's, since to hand a message on costs more than to encode bytes.
func encode[T any](m *outlet.Message, f *format, subj string, v T, o *sendOptions) error {
	m.Subject = subj
	if err := checkLiteral(subj); err != nil {
		return err
	}
	var call codec.Codec
	if o != nil {
		call, m.Header, m.ID = o.codec, o.header, o.id
	}
	if err := marshal(f, m, subj, v, call); err != nil {
		return err
	}
	return f.compress(m, f.compression.Encoding)
}

// marshal sets m's payload to v, and its content type where v's type does not
// imply that. about is the subject whose rules hold.
func marshal[T any](f *format, m *outlet.Message, about string, v T, call codec.Codec) error {
	if data, ok := any(v).([]byte); ok && call == nil {
		m.Data = data
		return nil
	}
	return marshalWith(f, m, about, v, call)
}

// marshalWith is marshal for everything but plain bytes. It is apart because
// here v moves to the heap.
func marshalWith[T any](f *format, m *outlet.Message, about string, v T, call codec.Codec) error {
	info := typeOf[T](f)
	if err := validate(info, about, &v); err != nil {
		return err
	}
	cd := f.codecFor(about, info, call)
	data, err := cd.Marshal(v)
	if err != nil {
		return &CodecError{Subject: about, ContentType: cd.ContentType(), Op: "encode", Err: err}
	}
	m.Data = data
	if f.mustName(cd, about, info, call != nil) {
		m.SetHeader(wire.HeaderContentType, cd.ContentType())
	}
	return nil
}

// mustName reports whether a reader needs to be told that the payload is in cd:
// one who knows only the type, and one who has our own rules where the call chose
// against them.
func (f *format) mustName(cd codec.Codec, about string, info *typeInfo, chosen bool) bool {
	name := cd.ContentType()
	return name != info.plain().ContentType() ||
		chosen && name != f.codecFor(about, info, nil).ContentType()
}

// validate calls the Validate method of *v or of v, where there is one.
func validate[T any](info *typeInfo, subj string, v *T) error {
	if !info.validates {
		return nil
	}
	check, ok := any(v).(validator)
	if !ok {
		if check, ok = any(*v).(validator); !ok || isNil(*v) {
			return nil
		}
	}
	if err := check.Validate(); err != nil {
		return &ValidationError{Subject: subj, Type: info.name, Err: err}
	}
	return nil
}

func isNil(v any) bool {
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Pointer && r.IsNil()
}

// compress compresses m's payload by the encoding where it is worth it; an empty
// encoding means not at all. What a receiver with our limit would refuse to
// decompress goes as it is, so that its size is refused here and now.
func (f *format) compress(m *outlet.Message, encoding string) error {
	if encoding == "" || len(m.Data) < f.compression.MinSize || len(m.Data) > f.compression.MaxDecoded {
		return nil
	}
	small, ok, err := f.coder.Compress(encoding, m.Data)
	if err != nil {
		return &CodecError{Subject: m.Subject, Encoding: encoding, Op: "encode", Err: err}
	}
	if !ok {
		return nil
	}
	f.counters.RawBytes.Add(int64(len(m.Data)))
	f.counters.CompressedBytes.Add(int64(len(small)))
	m.Data = small
	m.SetHeader(wire.HeaderContentEncoding, encoding)
	return nil
}

// errUnknown marks failures that a newer version of the program might not have:
// they are worth another try elsewhere or later.
var errUnknown = errors.New("this program does not know it, a newer one may")

// unreadable marks the error of a message that could not be read, which a handler
// may return too, of something else.
type unreadable struct{ err error }

func (e *unreadable) Error() string { return e.err.Error() }
func (e *unreadable) Unwrap() error { return e.err }

// payload returns the decompressed payload of m, and its codec for a type, where m
// names none the given one.
func (f *format) payload(m *RawMsg, info *typeInfo, assumed codec.Codec) ([]byte, codec.Codec, error) {
	if info.raw {
		assumed = codec.Raw // bytes are asked for, so bytes it is, whatever they mean
	}
	if len(m.Header) == 0 {
		return m.Data, assumed, nil
	}
	data := m.Data
	if encoding := m.Header.Get(wire.HeaderContentEncoding); encoding != "" {
		var err error
		if data, err = f.coder.Decompress(encoding, m.Data); err != nil {
			return nil, nil, &CodecError{Subject: m.Subject, Encoding: encoding, Op: "decode", Err: markUnknown(err)}
		}
	}
	text := m.Header.Get(wire.HeaderContentType)
	if text == "" || info.raw {
		return data, assumed, nil
	}
	cd, err := f.known.ByContentType(text)
	if err != nil {
		return nil, nil, &CodecError{Subject: m.Subject, ContentType: text, Op: "decode", Err: markUnknown(err)}
	}
	return data, cd, nil
}

func markUnknown(err error) error {
	var encoding *wire.UnknownEncodingError
	var contentType *wire.UnknownContentTypeError
	if errors.As(err, &encoding) || errors.As(err, &contentType) {
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	return err
}

// decode makes m into a message of type T. assumed is the codec of messages
// that name none.
func decode[T any](f *format, info *typeInfo, assumed codec.Codec, m *RawMsg) (*Msg[T], error) {
	if same, ok := any(m).(*Msg[T]); ok && len(m.Header) == 0 {
		return same, nil // plain bytes: there is nothing to decode
	}
	data, cd, err := f.payload(m, info, assumed)
	if err != nil {
		return nil, err
	}
	typed := retyped(m, *new(T))
	if err := cd.Unmarshal(data, &typed.Data); err != nil {
		return nil, &CodecError{Subject: m.Subject, ContentType: cd.ContentType(), Op: "decode", Err: err}
	}
	return typed, validate(info, m.Subject, &typed.Data)
}

// checkSize returns a *PayloadError if m is larger than limit.
func checkSize(m *outlet.Message, limit int) error {
	size := len(m.Data)
	for key, values := range m.Header {
		for _, v := range values {
			size += len(key) + len(v) + 4
		}
	}
	if size > limit {
		return &PayloadError{Subject: m.Subject, Size: size, Limit: limit}
	}
	return nil
}
