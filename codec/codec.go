// Package codec turns Go values into payloads and back.
//
// A payload's codec is named by its content type. Five are built in: [JSON], [Protobuf],
// [Raw], [Text] and [CBOR]. Any type with the three methods of [Codec] is a codec too;
// package codectest holds the tests that such a type must pass.
//
// All codecs of this package hold no state and are safe for concurrent use.
package codec

import (
	"encoding/json"
	"reflect"
)

// A Codec encodes and decodes the payloads of one content type. Its methods are called
// concurrently. They return errors and do not panic, whatever the value or the data.
//
// The interface keeps its three methods. More abilities come as optional interfaces that
// a codec may implement.
type Codec interface {
	// ContentType names the format: a media type in lower case without parameters, such
	// as "application/json". It is the same at each call.
	ContentType() string

	// Marshal encodes v. It neither changes nor keeps v. The result belongs to the caller
	// and shares no memory with other results; it may share memory with v only where v is
	// itself a slice of bytes.
	Marshal(v any) ([]byte, error)

	// Unmarshal decodes data into v, a non-nil pointer to a zero destination: for a
	// destination of type T, v is a *T, and where T is a pointer, Unmarshal allocates what
	// it points to. It may keep data, which the caller gives up, but does not change it.
	// After an error the destination's content is undefined.
	Unmarshal(data []byte, v any) error
}

// Builtin returns the codecs of this package, always in this order: [JSON], [Protobuf],
// [Raw], [Text], [CBOR]. The slice is the caller's.
func Builtin() []Codec {
	return []Codec{JSON, Protobuf, Raw, Text, CBOR}
}

// ForType returns the codec that a Go type implies: [JSON] for [json.RawMessage], [Raw]
// for []byte and the named types based on it, [Protobuf] for pointers to generated
// protobuf messages. It returns nil for every other type, and for a nil t: there the
// choice is the bus's.
//
// A struct that embeds a message is no message: protobuf would drop its other fields.
func ForType(t reflect.Type) Codec {
	switch {
	case t == nil:
		return nil
	case t == rawMessageType:
		return JSON
	case isBytes(t):
		return Raw
	case isMessage(t):
		return Protobuf
	}
	return nil
}

var (
	byteType       = reflect.TypeFor[byte]()
	rawMessageType = reflect.TypeFor[json.RawMessage]()
)

// isBytes reports whether t is []byte or based on it. A slice of a named byte type is
// not: its elements may have their own text form, as enums do.
func isBytes(t reflect.Type) bool {
	return t != nil && t.Kind() == reflect.Slice && t.Elem() == byteType
}

// isNilPointer reports whether v is a pointer type's nil.
func isNilPointer(v any) bool {
	rv := reflect.ValueOf(v)
	return rv.Kind() == reflect.Pointer && rv.IsNil()
}

// destination returns what v points to, or a *TypeError if v is no pointer or nil.
func destination(codec string, v any, want string) (reflect.Value, error) {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return reflect.Value{}, &TypeError{Codec: codec, Type: reflect.TypeOf(v), Want: want}
	}
	return rv.Elem(), nil
}

// encodable reports whether the formats with a data model (JSON, CBOR) can have a value
// of kind k at all.
func encodable(k reflect.Kind) bool {
	switch k {
	case reflect.Chan, reflect.Func, reflect.UnsafePointer, reflect.Complex64, reflect.Complex128:
		return false
	}
	return true
}
