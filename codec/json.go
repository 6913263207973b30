package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// JSON is the codec for application/json. It encodes and decodes as encoding/json does, with field
// tags, HTML escaping and [json.Marshaler].
//
// Marshal writes a [json.RawMessage], or a non-nil pointer to one, without any change;
// encoding/json would compact it. If it is not valid JSON the error is a *[SyntaxError]. A nil
// json.RawMessage is written as null. Into a *json.RawMessage, Unmarshal checks the data and
// keeps it without a copy.
//
// A pointer to a generated protobuf message is written and read as the JSON form of protobuf
// (package protojson). Unmarshal ignores unknown fields, as encoding/json does. A nil message
// gives a *[TypeError].
//
// An unsupported type gives a *[TypeError]. A value that cannot be written (NaN, a cycle) gives an
// error that wraps the error of encoding/json. Marshal also refuses what encoding/json can write
// but Unmarshal could not read back:
//   - a struct with unexported fields only;
//   - a struct with other fields that embeds a type with encoding methods, such as time.Time,
//     and has none of its own;
//   - a protobuf message inside another type, unless it has MarshalJSON and UnmarshalJSON;
//   - a type with MarshalText but no UnmarshalText, unless it is a string;
//   - a value in an interface that has methods;
//   - a type with a MarshalJSON on its pointer, as a value in a map or an interface;
//   - two fields with the same name, of which neither would be written;
//   - a key with only one of the methods MarshalText and UnmarshalText, or a string that its
//     UnmarshalText would change;
//   - a string that is not valid UTF-8;
//   - a time whose offset has seconds, as many zones had before 1900. RFC 3339 has whole minutes,
//     and the instant would change. Use UTC;
//   - an empty [json.Number], which would become 0, unless its field has the option omitempty;
//   - a number in an interface without methods that has more digits than a float64, wherever it
//     comes from: an integer, a big.Int, a json.Number, or a field of a struct in the interface;
//   - bytes in an interface, which would become a string in base64;
//   - more than 10,000 levels of nesting, and a value that takes more than about 256 MiB of
//     memory when it is decoded, or more than six times its JSON if that is more. Unmarshal
//     refuses these too.
//
// Some values change, because JSON has nothing to tell them apart, and to refuse them would
// forbid what every program does:
//   - an interface without methods comes back with float64, string, bool, nil, map[string]any and
//     []any. So a struct becomes a map, an integer a float64 of the same value, a time a string
//     with the same instant, and bytes inside of such a struct a string in base64;
//   - a pointer to a nil pointer, map or slice comes back as nil, because null is nil;
//   - a json.RawMessage in another type keeps its value, but not its blanks and escapes. A nil one
//     comes back as null;
//   - unexported fields next to exported ones are left out, and so are fields that a field with the
//     same name hides in the struct that embeds theirs;
//   - a time loses its monotonic clock and the name of its zone.
var JSON Codec = jsonCodec{}

// jsonCodec is JSON. It has no state.
type jsonCodec struct{}

const (
	jsonName     = "json"
	jsonWant     = "a type that encoding/json can write"
	jsonWantDest = "a non-nil pointer to a type that encoding/json can read"
	jsonMaxDepth = 10000 // encoding/json's own
)

// jsonFormat describes Go types for JSON.
var jsonFormat = &format{name: jsonName, maxDepth: jsonMaxDepth, fieldTag: jsonTag, methods: jsonMethods}

func jsonTag(f reflect.StructField) string { return f.Tag.Get("json") }

// jsonMethods describes how t encodes itself in JSON. Methods with pointer receivers are
// ignored by encoding/json where a value is not addressable.
func jsonMethods(t reflect.Type) methods {
	p := reflect.PointerTo(t)
	switch {
	case t == numberType, t == timeType:
		return methods{opaque: true, decodes: true, inspect: true}
	case p.Implements(jsonMarshalerType):
		return methods{
			opaque: true, decodes: p.Implements(jsonUnmarshalerType), needs: "UnmarshalJSON",
			pointer: !t.Implements(jsonMarshalerType), promoted: isPromoted(t, findMarshalJSON),
		}
	case p.Implements(textMarshalerType):
		return methods{
			opaque: true, decodes: p.Implements(textUnmarshalerType) || p.Implements(jsonUnmarshalerType), needs: "UnmarshalText",
			pointer: !t.Implements(textMarshalerType), promoted: isPromoted(t, findMarshalText),
		}
	}
	return methods{}
}

func (jsonCodec) ContentType() string { return "application/json" }

// Marshal refuses values of types that JSON would not give back. See Codec.
func (jsonCodec) Marshal(v any) ([]byte, error) {
	switch raw := v.(type) {
	case json.RawMessage:
		return writeRawJSON(raw)
	case *json.RawMessage:
		if raw != nil {
			return writeRawJSON(*raw)
		}
	}
	if isMessage(reflect.TypeOf(v)) {
		return writeJSONMessage(v)
	}
	info, number, err := jsonFormat.prepare(v)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(addressable(v, info))
	if err != nil {
		return nil, jsonFormat.encodeError(v, jsonWant, err)
	}
	if err := checkReadableJSON(data, v, info, number); err != nil {
		return nil, marshalError(jsonName, v, err)
	}
	return data, nil
}

// addressable returns v, or a pointer to a copy if a method with a pointer receiver would
// be ignored otherwise.
func addressable(v any, info *typeInfo) any {
	t := reflect.TypeOf(v)
	if !info.pointer || t.Kind() == reflect.Pointer {
		return v
	}
	copied := reflect.New(t)
	copied.Elem().Set(reflect.ValueOf(v))
	return copied.Interface()
}

// replaced is what encoding/json writes for each byte that is not UTF-8. A � in a string
// is written as it is.
var replaced = []byte(`\ufffd`)

// checkReadableJSON returns an error if data, which v was written as, cannot be read back.
// number says whether an interface holds a json.Number.
func checkReadableJSON(data []byte, v any, info *typeInfo, number bool) error {
	if bytes.Contains(data, replaced) {
		if err := jsonFormat.checkText(reflect.ValueOf(v)); err != nil {
			return err
		}
	}
	if number || info.holds && hasLongNumber(data) {
		if err := checkDigits(reflect.ValueOf(v), false); err != nil {
			return err
		}
	}
	return weighJSON(data, info.cost)
}

// weighJSON returns an error if data nests too deep, or takes too much memory in values of
// a type with the cost c.
func weighJSON(data []byte, c cost) error {
	if len(data) < weighedFrom {
		return nil
	}
	p, depth := jsonParts(data)
	if depth > jsonMaxDepth {
		return fmt.Errorf("nested deeper than %d levels", jsonMaxDepth)
	}
	return c.check(p, len(data))
}

// Unmarshal weighs the payload before it decodes it. See Codec.
func (jsonCodec) Unmarshal(data []byte, v any) error {
	if m, err := messageDestination(v); err != nil || m != nil {
		return readJSONMessage(data, m, err)
	}
	info, err := jsonFormat.prepareDestination(v, jsonWantDest)
	if err != nil {
		return err
	}
	if raw, ok := v.(*json.RawMessage); ok {
		*raw = data
		return checkJSON(data)
	}
	if err := weighJSON(data, info.cost); err != nil {
		return syntaxError(jsonName, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return syntaxError(jsonName, err)
	}
	return nil
}

// writeRawJSON returns raw if it is valid JSON, and null if it is nil.
func writeRawJSON(raw json.RawMessage) ([]byte, error) {
	if raw == nil {
		return []byte("null"), nil
	}
	if err := checkJSON(raw); err != nil {
		return nil, err
	}
	return raw, nil
}

// checkJSON returns a *SyntaxError if data is not one JSON value.
func checkJSON(data []byte) error {
	if json.Valid(data) {
		return nil
	}
	var discard json.RawMessage // parsing again finds the position of the mistake
	return syntaxError(jsonName, json.Unmarshal(data, &discard))
}

// writeJSONMessage writes the protobuf message v in the JSON form of protobuf.
func writeJSONMessage(v any) ([]byte, error) {
	if isNilPointer(v) {
		return nil, &TypeError{Codec: jsonName, Type: reflect.TypeOf(v), Want: protobufWant}
	}
	data, err := protojson.Marshal(v.(proto.Message))
	if err == nil {
		err = weighJSON(data, messageCost)
	}
	if err != nil {
		return nil, marshalError(jsonName, v, err)
	}
	return data, nil
}

// readJSONMessage decodes the JSON form of protobuf into m. It returns err if that is not nil.
func readJSONMessage(data []byte, m proto.Message, err error) error {
	if err != nil {
		return err
	}
	if err := weighJSON(data, messageCost); err != nil {
		return syntaxError(jsonName, err)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, m); err != nil {
		return syntaxError(jsonName, err)
	}
	return nil
}
