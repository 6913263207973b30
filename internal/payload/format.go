package payload

import (
	"reflect"
	"sync"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/outlet"
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

// Type is what a Format knows about a Go type.
type Type struct {
	Implied codec.Codec // the codec that the type implies, or nil

	name      string
	raw       bool // a byte slice: takes any payload as it is
	open      bool // an interface: the reader may know the type of the value that it holds
	validates bool // it or a pointer to it has a Validate method
}

// validator is a type that checks its values.
type validator interface{ Validate() error }

var validatorType = reflect.TypeFor[validator]()

// TypeOf returns what f knows about T. It looks at each type once.
func TypeOf[T any](f *Format) *Type {
	t := reflect.TypeFor[T]()
	if known, ok := f.types.Load(t); ok {
		return known.(*Type)
	}
	return f.addType(t)
}

func (f *Format) addType(t reflect.Type) *Type {
	implied := codec.ForType(t)
	info := &Type{
		Implied:   implied,
		name:      t.String(),
		raw:       implied == codec.Raw,
		open:      t.Kind() == reflect.Interface,
		validates: t.Implements(validatorType) || reflect.PointerTo(t).Implements(validatorType),
	}
	f.types.Store(t, info)
	return info
}

// assumed returns the codec that a reader assumes who knows only the type.
func (t *Type) assumed() codec.Codec {
	if t.Implied != nil {
		return t.Implied
	}
	return codec.JSON
}

// validate calls the Validate method of the value that pointer points to, if the value or
// the pointer has one. A nil pointer has no value to validate, so it is invalid. subj is for
// the error.
func (t *Type) validate(subj string, pointer any) error {
	if !t.validates {
		return nil
	}
	check, ok := pointer.(validator)
	if !ok {
		v := reflect.ValueOf(pointer).Elem()
		if check, ok = v.Interface().(validator); !ok || isNil(check) {
			return &InvalidError{Subject: subj, Type: t.name, Err: errNil}
		}
	}
	if err := check.Validate(); err != nil {
		return &InvalidError{Subject: subj, Type: t.name, Err: short(err)}
	}
	return nil
}

func isNil(v any) bool {
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Pointer && r.IsNil()
}

// Encode sets the payload of m to v and compresses it as the bus says. call is the codec
// that the call chose, or nil. m has its subject already.
//
// It fills a message of the caller, because to return one costs more than to encode bytes.
func Encode[T any](f *Format, m *outlet.Message, v T, call codec.Codec) error {
	if err := marshal(f, m, m.Subject, v, call); err != nil {
		return err
	}
	return f.compress(m, f.config.Encoding)
}

// Request is what the encoding of a reply depends on.
type Request struct {
	Subject string // its rules apply to the reply too
	Header  wire.Header
	Assumed codec.Codec // the codec it was read with, if its header names none; may be nil
}

// EncodeReply sets the payload of m to v, the answer to r. It takes the codec of the
// request if the type of v implies none, and a compression that the request accepts.
func EncodeReply[T any](f *Format, m *outlet.Message, v T, r Request) error {
	var call codec.Codec
	if TypeOf[T](f).Implied == nil {
		var err error
		if call, err = f.replyCodec(&r); err != nil {
			return err
		}
	}
	if err := marshal(f, m, r.Subject, v, call); err != nil {
		return err
	}
	return f.compress(m, wire.Acceptable(wire.Get(r.Header, wire.HeaderAcceptEncoding)))
}

// replyCodec returns the codec that the request names, or the one it was read with.
func (f *Format) replyCodec(r *Request) (codec.Codec, error) {
	text := wire.Get(r.Header, wire.HeaderContentType)
	if text == "" {
		return r.Assumed, nil
	}
	cd, err := f.known.ByContentType(text)
	if err != nil {
		return nil, &CodecError{Subject: r.Subject, ContentType: text, Op: "encode", Err: err}
	}
	return cd, nil
}

// marshal sets the payload of m to v, without compression. about is the subject whose
// rules apply. Bytes take a short way, which allocates nothing.
func marshal[T any](f *Format, m *outlet.Message, about string, v T, call codec.Codec) error {
	if data, ok := any(&v).(*[]byte); ok && call == nil { // not bytes in an interface: their reader expects a codec
		m.Data = *data
		return nil
	}
	return marshalValue(f, m, about, v, call)
}

// marshalValue is marshal for everything but bytes. It is a function of its own because v
// moves to the heap here. Validate may change v through a pointer, so v becomes an
// interface value only after that.
func marshalValue[T any](f *Format, m *outlet.Message, about string, v T, call codec.Codec) error {
	t := TypeOf[T](f)
	if err := t.validate(about, &v); err != nil {
		return err
	}
	return f.marshalAs(m, t, about, v, call)
}

// marshalAs encodes v and names the codec in the header if a reader needs that.
func (f *Format) marshalAs(m *outlet.Message, t *Type, about string, v any, call codec.Codec) error {
	cd := f.CodecFor(about, t, call)
	if t.open && (cd == codec.JSON || cd == codec.CBOR) {
		v = inInterface(v)
	}
	data, err := cd.Marshal(v)
	if err != nil {
		return &CodecError{Subject: about, ContentType: cd.ContentType(), Op: "encode", Err: short(err)}
	}
	m.Data = data
	if f.mustName(cd, about, t, call != nil) || t.open && f.impliesOther(cd, v) {
		m.SetHeader(wire.HeaderContentType, cd.ContentType())
	}
	return nil
}

// mustName reports whether a reader would assume another codec than cd: a reader who knows
// only the type, or one with the same rules if the call chose against them.
func (f *Format) mustName(cd codec.Codec, about string, t *Type, chosen bool) bool {
	name := cd.ContentType()
	return name != t.assumed().ContentType() ||
		chosen && name != f.CodecFor(about, t, nil).ContentType()
}

// inInterface returns a pointer to an interface that holds v. So a codec sees that its reader
// may have no more than the interface: JSON refuses numbers that would be rounded, and bytes. A
// message and a json.RawMessage are written as they are.
func inInterface(v any) any {
	if implied := codec.ForType(reflect.TypeOf(v)); implied == codec.Protobuf || implied == codec.JSON {
		return v
	}
	return &v
}

// impliesOther reports whether the type of v implies another codec than cd: who reads that
// type would assume it.
func (f *Format) impliesOther(cd codec.Codec, v any) bool {
	implied := codec.ForType(reflect.TypeOf(v))
	return implied != nil && implied.ContentType() != cd.ContentType()
}

// compress compresses the payload of m if that makes it smaller. A payload that a receiver
// with our limit would refuse to decompress stays as it is. The check of its size refuses
// it then.
func (f *Format) compress(m *outlet.Message, encoding string) error {
	if encoding == "" || len(m.Data) < f.config.MinSize || len(m.Data) > f.config.MaxDecoded {
		return nil
	}
	small, ok, err := f.coder.Compress(encoding, m.Data)
	if err != nil {
		return &CodecError{Subject: m.Subject, Encoding: encoding, Op: "encode", Err: err}
	}
	if !ok {
		return nil
	}
	f.config.Counters.RawBytes.Add(int64(len(m.Data)))
	f.config.Counters.CompressedBytes.Add(int64(len(small)))
	m.Data = small
	m.SetHeader(wire.HeaderContentEncoding, encoding)
	return nil
}

// Decode reads in into the value that pointer points to, and validates that. call is the
// codec of messages that name none, if the call chose one; else the rules of the subject
// apply.
func (f *Format) Decode(t *Type, in *wire.In, call codec.Codec, pointer any) error {
	data, cd, err := f.read(t, in, call)
	if err != nil {
		return err
	}
	if err := cd.Unmarshal(data, pointer); err != nil {
		return &CodecError{Subject: in.Subject, ContentType: cd.ContentType(), Op: "decode", Err: short(err)}
	}
	return t.validate(in.Subject, pointer)
}

// read returns the decompressed payload of in and its codec.
func (f *Format) read(t *Type, in *wire.In, call codec.Codec) ([]byte, codec.Codec, error) {
	data := in.Data
	if encoding := wire.Get(in.Header, wire.HeaderContentEncoding); encoding != "" {
		var err error
		if data, err = f.coder.Decompress(encoding, data); err != nil {
			return nil, nil, &CodecError{Subject: in.Subject, Encoding: encoding, Op: "decode", Err: markUnknown(err)}
		}
	}
	if t.raw {
		return data, codec.Raw, nil // the program asks for bytes, whatever they mean
	}
	text := wire.Get(in.Header, wire.HeaderContentType)
	if text == "" {
		return data, f.CodecFor(in.Subject, t, call), nil
	}
	cd, err := f.known.ByContentType(text)
	if err != nil {
		return nil, nil, &CodecError{Subject: in.Subject, ContentType: text, Op: "decode", Err: markUnknown(err)}
	}
	return data, cd, nil
}
