package codec

import (
	"errors"
	"reflect"

	"github.com/fxamacker/cbor/v2"
)

// CBOR is the codec for application/cbor (RFC 8949). CBOR has the data model of JSON in fewer
// bytes, and also has integers and byte strings. A struct field uses its cbor tag, or its json
// tag if it has no cbor tag.
//
// Marshal writes the core deterministic encoding: equal values give equal bytes. It writes a
// time.Time as tag 0 with RFC 3339 text, to the nanosecond and with the offset, as JSON does. It
// cannot write a year outside of 0 to 9999. Unmarshal can read such a time as a number of
// seconds. The methods of [encoding.TextMarshaler] are used, unless the type also has binary
// methods.
//
// Into an any, Unmarshal reads a map as map[string]any, an integer as int64 or uint64, and a
// time as time.Time. A map with other keys gives a *[SyntaxError]; read it into a map of that
// type. A string may be invalid UTF-8.
//
// To protect against hostile data, Unmarshal accepts at most 256 levels of nesting, 1 Mi elements
// in an array, 128 Ki pairs in a map, and each map key once. It allocates no memory for elements
// that the data does not contain. Marshal accepts at most 250 levels of nesting, so it also
// refuses cycles.
//
// An unsupported type gives a *[TypeError].
var CBOR Codec = cborCodec{}

type cborCodec struct{}

const (
	cborName     = "cbor"
	cborWant     = "a type that CBOR can hold"
	cborWantDest = "a non-nil pointer to a type that CBOR can hold"
)

var (
	cborEncoder = must(cborEncOptions().EncMode())
	cborDecoder = must(cborDecOptions().DecMode())
)

// cborEncOptions returns the options for Marshal.
func cborEncOptions() cbor.EncOptions {
	opts := cbor.CoreDetEncOptions()
	opts.Time = cbor.TimeRFC3339Nano
	opts.TimeTag = cbor.EncTagRequired
	opts.TextMarshaler = cbor.TextMarshalerTextString
	return opts
}

// cborDecOptions returns the options for Unmarshal.
func cborDecOptions() cbor.DecOptions {
	return cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  256,
		MaxArrayElements: 1 << 20,
		MaxMapPairs:      1 << 17,
		DefaultMapType:   reflect.TypeFor[map[string]any](),
		TextUnmarshaler:  cbor.TextUnmarshalerTextString,
		UTF8:             cbor.UTF8DecodeInvalid,
	}
}

// must panics at program start if constant options are invalid.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (cborCodec) ContentType() string { return "application/cbor" }

func (cborCodec) Marshal(v any) ([]byte, error) {
	if err := checkDepth(reflect.ValueOf(v)); err != nil {
		return nil, marshalError(cborName, v, err)
	}
	data, err := cborEncoder.Marshal(v)
	if err != nil {
		return nil, cborMarshalError(v, err)
	}
	return data, nil
}

func (cborCodec) Unmarshal(data []byte, v any) error {
	dst, err := destination(cborName, v, cborWantDest)
	if err != nil {
		return err
	}
	if !encodable(dst.Kind()) {
		return &TypeError{Codec: cborName, Type: reflect.TypeOf(v), Want: cborWantDest}
	}
	if err := cborDecoder.Unmarshal(data, v); err != nil {
		return &SyntaxError{Codec: cborName, Err: err}
	}
	return nil
}

// cborMarshalError returns the error of Marshal for an error of the library.
func cborMarshalError(v any, err error) error {
	if unsupported, ok := errors.AsType[*cbor.UnsupportedTypeError](err); ok {
		return &TypeError{Codec: cborName, Type: unsupported.Type, Want: cborWant}
	}
	return marshalError(cborName, v, err)
}
