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

func newFormat(c *config, counters *telemetry.Bus) (*format, error) {
	comp := c.compression.withDefaults()
	known, err := wire.NewCodecs(c.codecs...)
	if err != nil {
		return nil, &OptionError{Option: "WithCodec", Value: "…", Reason: err.Error()}
	}
	return &format{
		codec:       c.codec,
		rules:       c.codecRules,
		known:       known,
		compression: comp,
		coder:       wire.NewCoder(comp.MaxDecoded),
		counters:    counters,
	}, nil
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
// rule, what the type implies, the bus's own.
func (f *format) codecFor(subj string, info *typeInfo, call codec.Codec) codec.Codec {
	if call != nil {
		return call
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

// encode makes v into a message for the literal subject subj, which came from
// template.
func encode[T any](f *format, subj string, v T, o *sendOptions) (outlet.Message, error) {
	m := outlet.Message{Out: wire.Out{Subject: subj}, Template: subj}
	if err := checkLiteral(subj); err != nil {
		return m, err
	}
	if data, ok := any(v).([]byte); ok && o == nil && len(f.rules) == 0 {
		m.Data = data
		return m, f.compress(&m)
	}
	return m, encodeWith(f, &m, v, o)
}

// encodeWith is encode for everything but plain bytes.
func encodeWith[T any](f *format, m *outlet.Message, v T, o *sendOptions) error {
	info := typeOf[T](f)
	if err := validate(info, m.Subject, &v); err != nil {
		return err
	}
	var call codec.Codec
	if o != nil {
		call, m.Header, m.ID = o.codec, o.header, o.id
	}
	cd := f.codecFor(m.Subject, info, call)
	data, err := cd.Marshal(v)
	if err != nil {
		return &CodecError{Subject: m.Subject, ContentType: cd.ContentType(), Op: "encode", Err: err}
	}
	m.Data = data
	if cd.ContentType() != info.plain().ContentType() {
		m.SetHeader(wire.HeaderContentType, cd.ContentType())
	}
	return f.compress(m)
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

// compress compresses m's payload where that is configured and worth it.
func (f *format) compress(m *outlet.Message) error {
	return f.compressAs(m, f.compression.Encoding)
}

// compressAs is compress with the given encoding; empty or unknown means none.
func (f *format) compressAs(m *outlet.Message, encoding string) error {
	if encoding == "" || len(m.Data) < f.compression.MinSize {
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
var errUnknown = errors.New("this member does not know it")

// payload returns the decompressed payload of m, and its codec, where m names
// none the given one.
func (f *format) payload(m *RawMsg, assumed codec.Codec) ([]byte, codec.Codec, error) {
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
	if text == "" {
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
	data, cd, err := f.payload(m, assumed)
	if err != nil {
		return nil, err
	}
	if info.raw {
		cd = codec.Raw // bytes are asked for, so bytes it is, whatever they mean
	}
	if same, ok := any(m).(*Msg[T]); ok && len(m.Header) == 0 && cd == codec.Raw {
		return same, nil
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
