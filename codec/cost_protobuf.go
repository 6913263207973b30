package codec

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// messageCost is what the parts of protobuf's JSON take in messages.
var messageCost = cost{value: 64, object: 256, pair: 64}

// weighMessage returns an error if data takes too much memory as a message like m, or nests
// deeper than the protobuf library reads.
func weighMessage(data []byte, m proto.Message) error {
	if len(data) < weighedFrom {
		return nil
	}
	var w messageWeigher
	w.fields(data, m.ProtoReflect().Descriptor(), 0)
	limit := max(maxMemory, maxGrowth*int64(len(data)))
	switch {
	case w.tooDeep:
		return fmt.Errorf("nested deeper than %d levels", protowire.DefaultRecursionLimit)
	case w.need > limit:
		return &memoryError{size: len(data), need: w.need, limit: limit}
	}
	return nil
}

// messageWeigher adds up about how many bytes a message takes in Go.
type messageWeigher struct {
	need    int64
	tooDeep bool
}

// fields weighs the fields in data. Where data is malformed the count ends: the library
// finds that too.
func (w *messageWeigher) fields(data []byte, d protoreflect.MessageDescriptor, depth int) {
	if depth >= protowire.DefaultRecursionLimit {
		w.tooDeep = true
		return
	}
	for len(data) > 0 {
		number, wire, n := protowire.ConsumeTag(data)
		if n < 0 {
			return
		}
		data = data[n:]
		if n = protowire.ConsumeFieldValue(number, wire, data); n < 0 {
			return
		}
		if field := d.Fields().ByNumber(number); field != nil {
			w.field(data[:n], field, wire, depth)
		}
		data = data[n:]
	}
}

// field adds the cost of one field to the weight.
func (w *messageWeigher) field(value []byte, field protoreflect.FieldDescriptor, wire protowire.Type, depth int) {
	inner := field.Message()
	switch {
	case inner != nil:
		w.need += 64 + 16*int64(inner.Fields().Len())
	case wire == protowire.BytesType && isPackable(field):
		w.need += 16 * int64(len(value)) // an element has a byte at least
	default:
		w.need += 48
	}
	var n int
	switch {
	case inner == nil:
	case wire == protowire.BytesType:
		if value, n = protowire.ConsumeBytes(value); n >= 0 {
			w.fields(value, inner, depth+1)
		}
	case wire == protowire.StartGroupType:
		if value, n = protowire.ConsumeGroup(field.Number(), value); n >= 0 {
			w.fields(value, inner, depth+1)
		}
	}
}

// isPackable reports whether a list may come in one piece, which readers must accept
// whatever the descriptor says.
func isPackable(field protoreflect.FieldDescriptor) bool {
	return field.IsList() && field.Kind() != protoreflect.StringKind && field.Kind() != protoreflect.BytesKind
}
