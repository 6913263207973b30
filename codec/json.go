package codec

import (
	"encoding/json"
	"errors"
	"reflect"
)

// JSON is the codec for application/json. It encodes and decodes as encoding/json does, with field
// tags, HTML escaping and [json.Marshaler].
//
// Marshal writes a [json.RawMessage], or a non-nil pointer to one, without any change;
// encoding/json would compact it. If it is not valid JSON the error is a *[SyntaxError]. A nil
// json.RawMessage is written as null. Into a *json.RawMessage, Unmarshal checks the data and
// keeps it without a copy.
//
// An unsupported type gives a *[TypeError]. A value that cannot be written (NaN, a cycle) gives an
// error that wraps the error of encoding/json.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

const (
	jsonName     = "json"
	jsonWant     = "a type that encoding/json can write"
	jsonWantDest = "a non-nil pointer to a type that encoding/json can read"
)

func (jsonCodec) ContentType() string { return "application/json" }

func (jsonCodec) Marshal(v any) ([]byte, error) {
	switch raw := v.(type) {
	case json.RawMessage:
		return writeRawJSON(raw)
	case *json.RawMessage:
		if raw != nil {
			return writeRawJSON(*raw)
		}
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, jsonMarshalError(v, err)
	}
	return data, nil
}

func (jsonCodec) Unmarshal(data []byte, v any) error {
	dst, err := destination(jsonName, v, jsonWantDest)
	if err != nil {
		return err
	}
	if !encodable(dst.Kind()) {
		return &TypeError{Codec: jsonName, Type: reflect.TypeOf(v), Want: jsonWantDest}
	}
	if raw, ok := v.(*json.RawMessage); ok {
		*raw = data
		return checkJSON(data)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return &SyntaxError{Codec: jsonName, Err: err}
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
	return &SyntaxError{Codec: jsonName, Err: json.Unmarshal(data, &discard)}
}

// jsonMarshalError returns the error of Marshal for an error of encoding/json.
func jsonMarshalError(v any, err error) error {
	if unsupported, ok := errors.AsType[*json.UnsupportedTypeError](err); ok {
		return &TypeError{Codec: jsonName, Type: unsupported.Type, Want: jsonWant}
	}
	return marshalError(jsonName, v, err)
}
