package payload

import (
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

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
	if data, ok := any(v).([]byte); ok && call == nil {
		m.Data = data
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
	data, err := cd.Marshal(v)
	if err != nil {
		return &CodecError{Subject: about, ContentType: cd.ContentType(), Op: "encode", Err: short(err)}
	}
	m.Data = data
	if f.mustName(cd, about, t, call != nil) {
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
