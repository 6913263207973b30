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
// fields give a *[SyntaxError]. Empty data gives a message without fields. A message that nests
// more than 10,000 levels, or that takes more than about 256 MiB of memory when it is decoded (or
// six times the size of the data if that is more), is refused by Marshal and by Unmarshal.
//
// Marshal of a message that contains itself overflows the stack, as in the protobuf library.
var Protobuf Codec = protobufCodec{}

// protobufCodec is the binary form of Protobuf. It has no state.
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
	m := v.(proto.Message)
	data, err := proto.Marshal(m)
	if err == nil {
		err = weighMessage(data, m)
	}
	if err != nil {
		return nil, marshalError(protobufName, v, err)
	}
	return data, nil
}

// Unmarshal weighs the payload before it decodes it. See Codec.
func (protobufCodec) Unmarshal(data []byte, v any) error {
	m, err := messageDestination(v)
	if err != nil {
		return err
	}
	if m == nil {
		return &TypeError{Codec: protobufName, Type: reflect.TypeOf(v), Want: protobufWantDest}
	}
	if err := weighMessage(data, m); err != nil {
		return syntaxError(protobufName, err)
	}
	if err := proto.Unmarshal(data, m); err != nil {
		return syntaxError(protobufName, err)
	}
	return nil
}

// messageDestination returns the message to decode into: v itself, or a new one that v then
// points to. It returns nil if v is not a destination for messages.
func messageDestination(v any) (proto.Message, error) {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer || !isMessage(t) && !isMessage(t.Elem()) {
		return nil, nil
	}
	m, ok := v.(proto.Message)
	if isMessage(t.Elem()) && !isNilPointer(v) {
		fresh := reflect.New(t.Elem().Elem())
		reflect.ValueOf(v).Elem().Set(fresh)
		m, ok = fresh.Interface().(proto.Message)
	}
	// A message without a descriptor, for example an empty dynamic one, is not valid.
	if !ok || isNilPointer(v) || !m.ProtoReflect().IsValid() {
		return nil, &TypeError{Codec: protobufName, Type: t, Want: protobufWantDest}
	}
	return m, nil
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
