package codec

import (
	"reflect"
	"sync"

	"google.golang.org/protobuf/proto"
)

// Protobuf is the codec for application/protobuf, the binary format. It supports non-nil pointers
// to generated messages. Another type gives a *[TypeError]. A struct that embeds a message does
// too, because its other fields would be lost. Different builds may encode a message to
// different bytes, as always with protobuf.
//
// Unmarshal accepts a message (a *pb.Order), or a pointer to a pointer (a **pb.Order), for which it
// allocates the message. It resets the message first. Malformed data and missing required
// fields give a *[SyntaxError]. Empty data gives a message without fields.
//
// Marshal of a message that contains itself overflows the stack, as in the protobuf library.
var Protobuf Codec = protobufCodec{}

type protobufCodec struct{}

const (
	protobufName     = "protobuf"
	protobufWant     = "a non-nil pointer to a generated protobuf message"
	protobufWantDest = "a generated protobuf message, or a non-nil pointer to where one is wanted"
)

func (protobufCodec) ContentType() string { return "application/protobuf" }

func (protobufCodec) Marshal(v any) ([]byte, error) {
	t := reflect.TypeOf(v)
	if !isMessage(t) || isNilPointer(v) {
		return nil, &TypeError{Codec: protobufName, Type: t, Want: protobufWant}
	}
	data, err := proto.Marshal(v.(proto.Message))
	if err != nil {
		return nil, marshalError(protobufName, v, err)
	}
	return data, nil
}

func (protobufCodec) Unmarshal(data []byte, v any) error {
	dst, err := destination(protobufName, v, protobufWantDest)
	if err != nil {
		return err
	}
	switch {
	case isMessage(reflect.TypeOf(v)):
		return readMessage(data, v.(proto.Message))
	case isMessage(dst.Type()):
		fresh := reflect.New(dst.Type().Elem())
		dst.Set(fresh)
		return readMessage(data, fresh.Interface().(proto.Message))
	}
	return &TypeError{Codec: protobufName, Type: reflect.TypeOf(v), Want: protobufWantDest}
}

// readMessage decodes data into m.
func readMessage(data []byte, m proto.Message) error {
	if !m.ProtoReflect().IsValid() { // for example a dynamic message without a descriptor
		return &TypeError{Codec: protobufName, Type: reflect.TypeOf(m), Want: protobufWantDest}
	}
	if err := proto.Unmarshal(data, m); err != nil {
		return &SyntaxError{Codec: protobufName, Err: err}
	}
	return nil
}

var (
	messageType = reflect.TypeFor[proto.Message]()
	messages    sync.Map // reflect.Type → bool: results of isMessage
)

// isMessage reports whether t is a pointer type that is a message by its own methods, and not by
// those of an embedded field.
func isMessage(t reflect.Type) bool {
	if t == nil || t.Kind() != reflect.Pointer {
		return false
	}
	if known, ok := messages.Load(t); ok {
		return known.(bool)
	}
	is := t.Implements(messageType) && !embedsMessage(t.Elem())
	messages.Store(t, is)
	return is
}

// embedsMessage reports whether t is a struct with an embedded message.
func embedsMessage(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	for field := range t.Fields() {
		if field.Anonymous && (field.Type.Implements(messageType) || reflect.PointerTo(field.Type).Implements(messageType)) {
			return true
		}
	}
	return false
}
