package codec

import (
	"errors"
	"reflect"

	"github.com/fxamacker/cbor/v2"
)

// CBOR is application/cbor (RFC 8949): the model of JSON in fewer bytes, with real
// integers and byte strings. Structs use their cbor tags, or else their json tags.
//
// It writes the core deterministic encoding: equal values give equal bytes. A time.Time
// is tag 0 with RFC 3339 text, to the nanosecond and with its offset, as JSON has it; a
// year outside 0 to 9999 can be read, as a number of seconds, and not written.
// Text methods ([encoding.TextMarshaler]) are honoured, binary ones win over them.
//
// Read into an any, maps become map[string]any (other keys are a *[SyntaxError]: name a
// map type to have them), integers int64 or uint64, times time.Time. Strings are taken as
// they are, as Go strings, even where they are not UTF-8.
//
// Against hostile data: 256 levels of nesting, 1 Mi elements per array, 128 Ki pairs per
// map, no map key twice, and nothing is allocated for elements that data does not hold.
// Marshal refuses what is nested deeper than 250 levels, and thereby cycles.
//
// Unsupported types give a *[TypeError].
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

func cborEncOptions() cbor.EncOptions {
	opts := cbor.CoreDetEncOptions()
	opts.Time = cbor.TimeRFC3339Nano
	opts.TimeTag = cbor.EncTagRequired
	opts.TextMarshaler = cbor.TextMarshalerTextString
	return opts
}

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

// must turns an error in constant options, which a test would meet, into a panic at start.
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

func cborMarshalError(v any, err error) error {
	if unsupported, ok := errors.AsType[*cbor.UnsupportedTypeError](err); ok {
		return &TypeError{Codec: cborName, Type: unsupported.Type, Want: cborWant}
	}
	return marshalError(cborName, v, err)
}
