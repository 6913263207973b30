package codec_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/omnibus-go/bus/codec"
)

// wide is a type whose empty values are large.
type wide struct{ A [128]int64 }

// What is decoded is bounded, not only its text.
func TestDecodedMemoryIsBounded(t *testing.T) {
	const size = 16 << 20
	many := func(head, item, tail string) []byte {
		return []byte(head + strings.Repeat(item, size/len(item)) + tail)
	}
	emptyArrays := append([]byte{0x98, 30}, bytes.Repeat(append([]byte{0x9a, 0, 0x10, 0, 0}, bytes.Repeat([]byte{0x80}, 1<<20)...), 30)...)
	for name, test := range map[string]struct {
		codec codec.Codec
		data  []byte
		dst   any
	}{
		"json maps":       {codec.JSON, many("[", `{"":0},`, "0]"), new(any)},
		"json arrays":     {codec.JSON, many("[", `[],`, "0]"), new([]any)},
		"json map":        {codec.JSON, many("[", `{},`, "{}]"), new([]map[string]string)},
		"json structs":    {codec.JSON, many("[", `{},`, "{}]"), new([]wide)},
		"json pointers":   {codec.JSON, many("[", `{},`, "{}]"), new([]*wide)},
		"json in strings": {codec.JSON, many(`["\"",`, `{"\\":0},`, "0]"), new(map[string]any)},
		"json message":    {codec.JSON, many("[", `{},`, "{}]"), new(*structpb.ListValue)},
		"cbor arrays":     {codec.CBOR, emptyArrays, new(any)},
		"cbor structs":    {codec.CBOR, append([]byte{0x9a, 0, 0x10, 0, 0}, bytes.Repeat([]byte{0xa0}, 1<<20)...), new([]wide)},
		"protobuf values": {codec.Protobuf, bytes.Repeat([]byte{0x0a, 0x00}, size/2), new(*structpb.ListValue)},
		"protobuf fields": {codec.Protobuf, bytes.Repeat([]byte{0x22, 0x00}, size/2), new(*descriptorpb.FileDescriptorProto)},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := test.codec.Unmarshal(test.data, test.dst)
			runtime.ReadMemStats(&after)
			if _, ok := errors.AsType[*codec.SyntaxError](err); !ok {
				t.Errorf("error %v, want a *SyntaxError", err)
			}
			if spent := (after.TotalAlloc - before.TotalAlloc) >> 20; spent > 600 {
				t.Errorf("%d MiB were allocated", spent)
			}
			if err != nil && len(err.Error()) > 300 {
				t.Errorf("long text: %v", err)
			}
		})
	}
}

// Large payloads that are what they seem are read.
func TestLargeValuesArrive(t *testing.T) {
	t.Parallel()
	var list []order
	for range 20_000 {
		list = append(list, someOrder())
	}
	tree := map[string]any{"text": strings.Repeat(`{"a":[1,2]},`, 1<<20), "list": make([]any, 100_000)}
	message := &descriptorpb.FileDescriptorProto{}
	for range 50_000 {
		message.MessageType = append(message.MessageType, &descriptorpb.DescriptorProto{Name: new("a name")})
	}
	for _, v := range []any{list, tree, message, make([]int, 1_000_000), bytes.Repeat([]byte("x"), 10<<20)} {
		for _, c := range []codec.Codec{codec.JSON, codec.CBOR, codec.Protobuf} {
			if err := trip(c, v); err != nil && !errors.Is(err, errRefused) {
				t.Errorf("%s %T: %.300v", c.ContentType(), v, err)
			} else if err != nil && !isTypeError(err) {
				t.Errorf("%s %T: %.300v", c.ContentType(), v, err)
			}
		}
	}
}

// What Marshal accepts Unmarshal accepts: the limits are the same in both directions.
func TestLimitsAreTheSameInBothDirections(t *testing.T) {
	t.Parallel()
	deep := func(n int) (v any) {
		for range n {
			v = []any{v}
		}
		return v
	}
	deepMaps := func(n int) any {
		v := map[string]any{}
		for range n {
			v = map[string]any{"a": v, "b": time.Unix(0, 0).UTC()}
		}
		return v
	}
	linked := func(n int) *recursive {
		v := &recursive{}
		for range n {
			v = &recursive{Next: v}
		}
		return v
	}
	message := structpb.NewNullValue()
	for range 20_000 {
		message = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{message}})
	}
	for name, test := range map[string]struct {
		codec codec.Codec
		value any
		sent  bool
	}{
		"cbor 256":           {codec.CBOR, deep(256), true},
		"cbor 257":           {codec.CBOR, deep(257), false},
		"cbor maps 255":      {codec.CBOR, deepMaps(255), true},
		"cbor maps 256":      {codec.CBOR, deepMaps(256), false},
		"cbor linked 255":    {codec.CBOR, linked(255), true},
		"cbor linked 256":    {codec.CBOR, linked(256), false},
		"cbor raw 256":       {codec.CBOR, []json.RawMessage{json.RawMessage(strings.Repeat("[", 255) + strings.Repeat("]", 255))}, true},
		"cbor raw 257":       {codec.CBOR, []json.RawMessage{json.RawMessage(strings.Repeat("[", 256) + strings.Repeat("]", 256))}, false},
		"cbor long array":    {codec.CBOR, make([]bool, 1<<20), true},
		"cbor longer array":  {codec.CBOR, make([]bool, 1<<20+1), false},
		"json 10000":         {codec.JSON, deep(10000), true},
		"json 10001":         {codec.JSON, deep(10001), false},
		"json linked":        {codec.JSON, linked(9999), true},
		"json linked deeper": {codec.JSON, linked(10001), false},
		"json empty maps":    {codec.JSON, make([]struct{ M map[string]int }, 10_000), true},
		"json wide":          {codec.JSON, make([]map[string]string, 100_000), true},
		"protobuf deep":      {codec.Protobuf, message, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := test.codec.Marshal(test.value)
			if (err == nil) != test.sent {
				t.Fatalf("sent %v, want %v: %.300v", err == nil, test.sent, err)
			}
			if err != nil {
				return
			}
			if err := test.codec.Unmarshal(data, reflect.New(reflect.TypeOf(test.value)).Interface()); err != nil {
				t.Errorf("cannot be read: %.300v", err)
			}
		})
	}
}

// failing repeats what it was given in its error, as some parsers do.
type failing struct{}

func (failing) MarshalText() ([]byte, error)     { return nil, errors.New(strings.Repeat("x", 1<<20)) }
func (*failing) UnmarshalText(data []byte) error { return errors.New(string(data)) }
func (failing) MarshalJSON() ([]byte, error)     { return nil, errors.New(strings.Repeat("x", 1<<20)) }
func (*failing) UnmarshalJSON(data []byte) error { return errors.New(string(data)) }

// Errors do not repeat the data, however they are printed.
func TestErrorTextsAreShort(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("9", 1<<20)
	for name, err := range map[string]error{
		"json number":   codec.JSON.Unmarshal([]byte(`{"N":`+long+`}`), new(struct{ N int })),
		"json key":      codec.JSON.Unmarshal([]byte(`{"`+long+`":1}`), new(map[string]bool)),
		"json time":     codec.JSON.Unmarshal([]byte(`"`+long+`"`), new(time.Time)),
		"json method":   codec.JSON.Unmarshal([]byte(long), new(failing)),
		"json message":  codec.JSON.Unmarshal([]byte(long), new(*durationpb.Duration)),
		"json field":    codec.JSON.Unmarshal([]byte(`{"`+long+`":1}`), new(*structpb.Struct)),
		"text time":     codec.Text.Unmarshal([]byte(long), new(time.Time)),
		"text method":   codec.Text.Unmarshal([]byte(long), new(failing)),
		"cbor text":     codec.CBOR.Unmarshal(append([]byte{0x7a, 0, 0x10, 0, 0}, long...), new(time.Time)),
		"cbor method":   codec.CBOR.Unmarshal(append([]byte{0x7a, 0, 0x10, 0, 0}, long...), new(failing)),
		"marshal json":  second(codec.JSON.Marshal(failing{})),
		"marshal cbor":  second(codec.CBOR.Marshal(failing{})),
		"marshal text":  second(codec.Text.Marshal(failing{})),
		"marshal digit": second(codec.CBOR.Marshal(map[string]any{"a": json.Number("0." + long)})),
	} {
		for ; err != nil; err = errors.Unwrap(err) {
			if n := len(err.Error()); n > 1000 {
				t.Errorf("%s: %d bytes: %.200v", name, n, err)
			}
		}
	}
	err := codec.JSON.Unmarshal([]byte(`{"N":`+long+`}`), new(struct{ N int }))
	if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok || len(mismatch.Value) > 200 || mismatch.Field != "N" {
		t.Errorf("no short *json.UnmarshalTypeError in %.300v", err)
	}
}

func second[T any](_ T, err error) error { return err }
