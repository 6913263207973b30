package codec

import (
	"encoding/json"
	"errors"
	"reflect"
)

// JSON is application/json as encoding/json writes and reads it: field tags, HTML
// escaping, [json.Marshaler] and all.
//
// A [json.RawMessage] (or a non-nil pointer to one) is written byte for byte, where
// encoding/json would compact it; one that is not valid JSON is a *[SyntaxError], and a
// nil one is null. Read into a *json.RawMessage, data is checked and kept byte for byte
// without a copy.
//
// Unsupported types give a *[TypeError]; values that cannot be written (NaN, cycles) give
// an error that wraps encoding/json's.
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

// writeRawJSON returns raw itself if it is JSON, and null for nil.
func writeRawJSON(raw json.RawMessage) ([]byte, error) {
	if raw == nil {
		return []byte("null"), nil
	}
	if err := checkJSON(raw); err != nil {
		return nil, err
	}
	return raw, nil
}

// checkJSON returns a *SyntaxError unless data is one JSON value.
func checkJSON(data []byte) error {
	if json.Valid(data) {
		return nil
	}
	var discard json.RawMessage // the second parse finds where the mistake is
	return &SyntaxError{Codec: jsonName, Err: json.Unmarshal(data, &discard)}
}

func jsonMarshalError(v any, err error) error {
	if unsupported, ok := errors.AsType[*json.UnsupportedTypeError](err); ok {
		return &TypeError{Codec: jsonName, Type: unsupported.Type, Want: jsonWant}
	}
	return marshalError(jsonName, v, err)
}
