package codec

import (
	"reflect"
	"sync"

	"google.golang.org/protobuf/proto"
)

// Protobuf is application/protobuf, the binary format. It takes non-nil pointers to
// generated messages; everything else is a *[TypeError], including a struct that embeds a
// message, whose other fields would be lost. Bytes are not deterministic across builds,
// as everywhere in protobuf.
//
// Unmarshal takes the message itself (a *pb.Order) or a pointer to where one is wanted (a
// **pb.Order), and then allocates it. The message is reset first. Malformed data and
// missing required fields are a *[SyntaxError]. Empty data is a message without fields.
//
// Like the protobuf library, Marshal does not survive a message that contains itself.
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

func readMessage(data []byte, m proto.Message) error {
	if !m.ProtoReflect().IsValid() { // such as a dynamic message without a descriptor
		return &TypeError{Codec: protobufName, Type: reflect.TypeOf(m), Want: protobufWantDest}
	}
	if err := proto.Unmarshal(data, m); err != nil {
		return &SyntaxError{Codec: protobufName, Err: err}
	}
	return nil
}

var (
	messageType = reflect.TypeFor[proto.Message]()
	messages    sync.Map // reflect.Type → bool, the verdicts of isMessage
)

// isMessage reports whether t is a pointer type that is a message by its own methods,
// not by those of an embedded field.
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
