// Package codec encodes Go values into payloads and decodes payloads.
//
// The content type of a message names its codec. This package has five codecs: [JSON],
// [Protobuf], [Raw], [Text] and [CBOR]. Every type with the three methods of [Codec] is a codec
// too. Package codectest tests such a type.
//
// A value that a codec cannot carry is an error of Marshal, and not a loss for the receiver: what
// Marshal accepts can be read into a value of the same type. See [JSON] for values that change.
//
// The codecs of this package have no state. Safe for concurrent use.
package codec

import (
	"encoding/json"
	"reflect"
)

// A Codec encodes and decodes payloads of one content type. Its methods are called
// concurrently. They return errors and must not panic for any value or data.
//
// This interface will not get more methods. New features will be optional interfaces.
type Codec interface {
	// ContentType returns the media type in lower case without parameters, for example
	// "application/json". Every call returns the same value.
	ContentType() string

	// Marshal encodes v. If Unmarshal could not give back an equal value of the same type,
	// the result is an error. Marshal does not change v or keep a reference to it. The result belongs
	// to the caller and shares no memory with other results. It may share memory with v
	// only if v is a slice of bytes.
	Marshal(v any) ([]byte, error)

	// Unmarshal decodes data into v. v is a non-nil pointer to a zero value: for a value of
	// type T, v is a *T. If T is a pointer, Unmarshal allocates the value that it points
	// to. Unmarshal may keep data, and the caller must not use data afterwards. Unmarshal
	// does not change data. After an error the content of v is undefined.
	Unmarshal(data []byte, v any) error
}

// Builtin returns the codecs of this package in this order: [JSON], [Protobuf], [Raw], [Text],
// [CBOR]. The slice belongs to the caller.
func Builtin() []Codec {
	return []Codec{JSON, Protobuf, Raw, Text, CBOR}
}

// ForType returns the codec that a Go type implies. It returns [JSON] for [json.RawMessage],
// [Raw] for []byte and named types based on it, and [Protobuf] for pointers to generated
// protobuf messages and interfaces that only those satisfy. It returns nil for every other type and for a nil t; then the bus chooses
// the codec.
//
// A struct that embeds a message is not a message: protobuf would drop its other fields.
func ForType(t reflect.Type) Codec {
	switch {
	case t == nil:
		return nil
	case t == rawMessageType:
		return JSON
	case isBytes(t):
		return Raw
	case isMessage(t), t.Kind() == reflect.Interface && t.Implements(messageType):
		return Protobuf
	}
	return nil
}

var (
	byteType       = reflect.TypeFor[byte]()
	rawMessageType = reflect.TypeFor[json.RawMessage]()
)

// isBytes reports whether t is []byte or based on it. A slice of a named byte type is not, because
// its elements may have a text form of their own.
func isBytes(t reflect.Type) bool {
	return t != nil && t.Kind() == reflect.Slice && t.Elem() == byteType
}

// isNilPointer reports whether v is a nil pointer.
func isNilPointer(v any) bool {
	rv := reflect.ValueOf(v)
	return rv.Kind() == reflect.Pointer && rv.IsNil()
}

// destination returns what v points to. It returns a *TypeError if v is not a pointer, or nil.
func destination(codec string, v any, want string) (reflect.Value, error) {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return reflect.Value{}, &TypeError{Codec: codec, Type: reflect.TypeOf(v), Want: want}
	}
	return rv.Elem(), nil
}

// encodable reports whether JSON and CBOR can have values of kind k.
func encodable(k reflect.Kind) bool {
	switch k {
	case reflect.Chan, reflect.Func, reflect.UnsafePointer, reflect.Complex64, reflect.Complex128:
		return false
	}
	return true
}
