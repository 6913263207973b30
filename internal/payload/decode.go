package payload

import (
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/wire"
)

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
