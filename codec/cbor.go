package codec

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"reflect"

	"github.com/fxamacker/cbor/v2"
)

// CBOR is the codec for application/cbor (RFC 8949). CBOR has the data model of JSON in fewer
// bytes, and also has integers and byte strings. A struct field uses its cbor tag, or its json
// tag if it has no cbor tag.
//
// Marshal writes the core deterministic encoding: equal values give equal bytes. It writes a
// time.Time as tag 0 with RFC 3339 text, to the nanosecond and with the offset to the minute, as
// JSON does. It writes the zero time as null, so a pointer to a zero time comes back as nil. It
// cannot write a year outside of 0 to 9999, or an offset with seconds. Unmarshal can read such a
// time as a number of seconds.
//
// A type that encodes itself is written in the first of these forms that it has: MarshalCBOR;
// [encoding.TextMarshaler] as text; [json.Marshaler] as the CBOR of the same value;
// [encoding.BinaryMarshaler] as bytes. So a [json.RawMessage] keeps its value but not its
// spelling. Numbers in JSON keep their value: integers of any size, and fractions with as many
// digits as a float64 has. Other fractions are an error. A [json.Number] in an interface is
// written as such a number. In another place it gives a *[TypeError], because the library would
// write it as text.
//
// A type with UnmarshalJSON and none of these methods, as Stripe's have, is written field by field
// and reads the JSON of the same value. Marshal decodes what it wrote of such a type, and refuses a
// value that would change, for example a number with the option "string", which JSON alone knows.
//
// Into an any, Unmarshal reads a map as map[string]any, an integer as int64 or uint64, bytes as
// []byte, and a time as time.Time. A map with other keys gives a *[SyntaxError]; read it into a map
// of that type. A string may be invalid UTF-8.
//
// Marshal refuses keys that contain pointers or interfaces, because they would be other keys when
// they are read. A key that is itself an interface may hold a string, a number or a bool. Unmarshal
// can read more into such a key: nil, bytes, a time or a tag, as the library represents them.
//
// To protect against hostile data, Unmarshal accepts at most 256 levels of nesting, 1 Mi elements
// in an array, 128 Ki pairs in a map, and each map key once. It allocates no memory for elements
// that the data does not contain. The decoded value takes at most about 256 MiB, or six times the
// size of the data if that is more. Marshal has the same limits, so it also refuses cycles.
//
// An unsupported type gives a *[TypeError]. Both lists at [JSON] apply to CBOR too, except that a
// string may be invalid UTF-8, and that numbers, bytes and times in an interface keep what they
// are. Protobuf messages are not supported, except those with MarshalJSON and UnmarshalJSON.
var CBOR Codec = cborCodec{}

// cborCodec is CBOR. It has no state.
type cborCodec struct{}

const (
	cborName     = "cbor"
	cborWant     = "a type that CBOR can hold"
	cborWantDest = "a non-nil pointer to a type that CBOR can hold"

	cborMaxDepth    = 256
	cborMaxElements = 1 << 20
	cborMaxPairs    = 1 << 17
)

// The index of cborEncoders says whether the type has parts with a binary form alone, and that of
// cborDecoders whether it has parts with a JSON form alone. The library would prefer these forms
// to text for all other parts too, so they are off where nothing needs them.
var (
	cborEncoders = [2]cbor.EncMode{newCBOREncoder(false), newCBOREncoder(true)}
	cborDecoders = [2]cbor.DecMode{newCBORDecoder(false), newCBORDecoder(true)}
)

// newCBOREncoder returns an encoder. It uses binary methods if binary is true.
func newCBOREncoder(binary bool) cbor.EncMode {
	opts := cbor.CoreDetEncOptions()
	opts.Time = cbor.TimeRFC3339Nano
	opts.TimeTag = cbor.EncTagRequired
	opts.TextMarshaler = cbor.TextMarshalerTextString
	opts.JSONMarshalerTranscoder = jsonToCBOR{}
	if !binary {
		opts.BinaryMarshaler = cbor.BinaryMarshalerNone
	}
	return must(opts.EncMode())
}

// newCBORDecoder returns a decoder. It uses UnmarshalJSON if fromJSON is true.
func newCBORDecoder(fromJSON bool) cbor.DecMode {
	opts := cborDecOptions()
	if fromJSON {
		opts.JSONUnmarshalerTranscoder = cborToJSON{}
	}
	return must(opts.DecMode())
}

// cborDecOptions returns the options that all decoders have.
func cborDecOptions() cbor.DecOptions {
	return cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  cborMaxDepth,
		MaxArrayElements: cborMaxElements,
		MaxMapPairs:      cborMaxPairs,
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

// cborFormat describes Go types for CBOR.
var cborFormat = &format{name: cborName, maxDepth: cborMaxDepth, fieldTag: cborTag, methods: cborMethods}

// cborTag follows the CBOR library: the cbor tag before the json tag.
func cborTag(f reflect.StructField) string {
	if tag := f.Tag.Get("cbor"); tag != "" {
		return tag
	}
	return f.Tag.Get("json")
}

var (
	cborMarshalerType     = reflect.TypeFor[cbor.Marshaler]()
	cborUnmarshalerType   = reflect.TypeFor[cbor.Unmarshaler]()
	binaryMarshalerType   = reflect.TypeFor[encoding.BinaryMarshaler]()
	binaryUnmarshalerType = reflect.TypeFor[encoding.BinaryUnmarshaler]()
)

// cborMethods describes how t encodes itself in CBOR. The library finds methods with pointer
// receivers in every place.
func cborMethods(t reflect.Type) methods {
	p := reflect.PointerTo(t)
	fromJSON := p.Implements(jsonUnmarshalerType)
	switch {
	case t == timeType:
		return methods{opaque: true, decodes: true, inspect: true}
	case t == reflect.TypeFor[big.Int](), t.PkgPath() == cborMarshalerType.PkgPath():
		return methods{opaque: true, decodes: true}
	case t == numberType:
		return methods{opaque: true, decodes: true, flags: hasNumberInText}
	case p.Implements(cborMarshalerType):
		return methods{opaque: true, decodes: p.Implements(cborUnmarshalerType), promoted: isPromoted(t, findMarshalCBOR), needs: "UnmarshalCBOR"}
	case p.Implements(textMarshalerType):
		m := methods{opaque: true, decodes: fromJSON || p.Implements(textUnmarshalerType), promoted: isPromoted(t, findMarshalText), needs: "UnmarshalText"}
		if fromJSON {
			m.flags = hasTextAndJSON
		}
		if fromJSON && !p.Implements(textUnmarshalerType) {
			m.flags = hasJSONForm
		}
		return m
	case p.Implements(jsonMarshalerType):
		m := methods{opaque: true, decodes: fromJSON, promoted: isPromoted(t, findMarshalJSON), needs: "UnmarshalJSON"}
		if fromJSON {
			m.flags = hasJSONForm
		}
		return m
	case fromJSON:
		return methods{flags: hasJSONForm | hasJSONReader}
	case p.Implements(binaryMarshalerType) && p.Implements(binaryUnmarshalerType):
		return methods{opaque: true, decodes: true, promoted: isPromoted(t, findMarshalBinary), flags: hasBinaryForm}
	}
	return methods{}
}

func (cborCodec) ContentType() string { return "application/cbor" }

// Marshal refuses values of types that CBOR would not give back. See Codec.
func (cborCodec) Marshal(v any) ([]byte, error) {
	info, number, err := cborFormat.prepare(v)
	if err != nil {
		return nil, err
	}
	plain := v
	if number {
		if plain, err = withoutNumbers(v); err != nil {
			return nil, marshalError(cborName, v, err)
		}
	}
	data, err := encodeCBOR(plain, info)
	if err != nil {
		return nil, cborFormat.encodeError(v, cborWant, err)
	}
	if err := checkCBOR(data, plain, info); err != nil {
		return nil, marshalError(cborName, v, err)
	}
	return data, nil
}

func encodeCBOR(v any, info *typeInfo) ([]byte, error) {
	return cborEncoders[index(info.flags&hasBinaryForm != 0)].Marshal(v)
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// checkCBOR returns an error if data, the encoding of v, cannot be read: for its size, its
// depth, or because a method cannot read what another one wrote.
func checkCBOR(data []byte, v any, info *typeInfo) error {
	if !info.nests && info.flags == 0 && len(data) < weighedFrom {
		return nil
	}
	if err := cborDecoders[0].Wellformed(data); err != nil {
		return err
	}
	if err := weighCBOR(data, info); err != nil {
		return err
	}
	const both = hasJSONForm | hasTextAndJSON
	if info.flags&hasJSONReader == 0 && info.flags&both != both {
		return nil
	}
	return checkReadCBOR(data, v, info)
}

// checkReadCBOR returns an error if data is read as another value than v. It is for types whose
// UnmarshalJSON reads what no method of theirs wrote: it gets the JSON of the CBOR, in which
// options such as "string" are unknown. Next to a type with a JSON form alone, the library reads
// text by UnmarshalJSON too.
func checkReadCBOR(data []byte, v any, info *typeInfo) error {
	copied := reflect.New(reflect.TypeOf(v))
	if err := cborDecoders[1].Unmarshal(data, copied.Interface()); err != nil {
		return fmt.Errorf("an UnmarshalJSON in it does not read what is written without a MarshalJSON; use codec.JSON: %w", err)
	}
	again, err := encodeCBOR(copied.Elem().Interface(), info)
	if err == nil && !bytes.Equal(data, again) {
		err = errors.New("its text form, or what is written without a MarshalJSON, and what its UnmarshalJSON reads differ; use codec.JSON")
	}
	return err
}

func weighCBOR(data []byte, info *typeInfo) error {
	if len(data) < weighedFrom {
		return nil
	}
	return info.cost.check(cborParts(data), len(data))
}

func (cborCodec) Unmarshal(data []byte, v any) error {
	info, err := cborFormat.prepareDestination(v, cborWantDest)
	if err != nil {
		return err
	}
	if err := weighCBOR(data, info); err != nil {
		return syntaxError(cborName, err)
	}
	if err := cborDecoders[index(info.flags&hasJSONForm != 0)].Unmarshal(data, v); err != nil {
		return syntaxError(cborName, err)
	}
	return nil
}

// jsonToCBOR writes the JSON of a json.Marshaler as CBOR.
type jsonToCBOR struct{}

// Transcode writes as CBOR the JSON that a type without a CBOR form makes.
func (jsonToCBOR) Transcode(w io.Writer, r io.Reader) error {
	var v any
	reader := json.NewDecoder(r)
	reader.UseNumber()
	if err := reader.Decode(&v); err != nil {
		return err
	}
	v, err := plainNumbers(v)
	if err != nil {
		return err
	}
	data, err := cborEncoders[0].Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// cborToJSON writes CBOR as the JSON for a json.Unmarshaler.
type cborToJSON struct{}

var cborToAny = newCBORToAny()

func newCBORToAny() cbor.DecMode {
	opts := cborDecOptions()
	opts.BigIntDec = cbor.BigIntDecodePointer // the only one that encoding/json can write
	opts.UnrecognizedTagToAny = cbor.UnrecognizedTagContentToAny
	return must(opts.DecMode())
}

// Transcode writes as JSON the CBOR that a type without a CBOR form reads.
func (cborToJSON) Transcode(w io.Writer, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	var v any
	if err := cborToAny.Unmarshal(data, &v); err != nil {
		return err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}
