package codec_test

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/codec/codectest"
)

type order struct {
	ID      int64             `json:"id"`
	Name    string            `json:"name,omitempty"`
	Price   float64           `json:"price"`
	Tags    []string          `json:"tags"`
	Meta    map[string]string `json:"meta"`
	Blob    []byte            `json:"blob"`
	Created time.Time         `json:"created"`
	Next    *order            `json:"next,omitempty"`
	Parent  *order            `json:"-"`
}

func someOrder() order {
	return order{
		ID: 1 << 60, Name: "grüße \x00", Price: 12.5,
		Tags: []string{"a", ""}, Meta: map[string]string{"k": "v", "": "e"}, Blob: []byte{0, 255},
		Created: time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC),
		Next:    &order{ID: -1, Tags: []string{}, Meta: map[string]string{}, Blob: []byte{}},
	}
}

type (
	word   string
	doc    []byte
	myByte byte
)

// status is a string with a text form of its own.
type status string

func (s status) MarshalText() ([]byte, error) { return []byte("status:" + s), nil }

func (s *status) UnmarshalText(b []byte) error {
	rest, ok := strings.CutPrefix(string(b), "status:")
	if !ok {
		return errors.New("no status")
	}
	*s = status(rest)
	return nil
}

type wrapsPointer struct {
	*durationpb.Duration
	Extra int
}

type wrapsInterface struct{ proto.Message }

func TestConformance(t *testing.T) {
	t.Parallel()
	list, err := structpb.NewStruct(map[string]any{"a": 1.5, "b": []any{"x", nil}})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 2, 3, 4, 5, 6, 7, time.FixedZone("", 3600))
	for name, suite := range map[string]codectest.Suite{
		"json": {
			Codec:     codec.JSON,
			Values:    []any{someOrder(), &order{}, "text", 7, true, map[string]any{"a": []any{1.5, nil}}, at, json.RawMessage(` {"a": 1} `), []byte("bytes")},
			Malformed: [][]byte{nil, []byte("{"), []byte(`"a" "b"`), []byte("\xff"), []byte(strings.Repeat("[", 20000))},
		},
		"protobuf": {
			Codec:     codec.Protobuf,
			Values:    []any{durationpb.New(time.Hour), &durationpb.Duration{}, list},
			Malformed: [][]byte{{0x08}, {0xff}, {0x0a, 0x7f, 0x01}},
		},
		"raw": {Codec: codec.Raw, Values: []any{[]byte("bytes"), []byte{}, doc("named")}},
		"text": {
			Codec:     codec.Text,
			Values:    []any{"grüße", "", word("named"), status("up"), at, big.NewInt(1 << 40), net.IPv4(10, 0, 0, 1)},
			Malformed: [][]byte{[]byte("\xff")},
			Equal: func(a, b any) bool {
				if x, ok := a.(*big.Int); ok {
					return x.Cmp(b.(*big.Int)) == 0
				}
				if x, ok := a.(time.Time); ok {
					return x.Equal(b.(time.Time))
				}
				return reflect.DeepEqual(a, b)
			},
		},
		"cbor": {
			Codec:     codec.CBOR,
			Values:    []any{someOrder(), &order{}, "text", 7, true, map[string]any{"a": []any{1.5, nil}}, at, status("up"), []byte("bytes")},
			Malformed: [][]byte{nil, {0x61}, {0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x00, 0x00}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			suite.Run(t)
		})
	}
}

func TestBuiltin(t *testing.T) {
	t.Parallel()
	want := []string{"application/json", "application/protobuf", "application/octet-stream", "text/plain", "application/cbor"}
	var got []string
	for _, c := range codec.Builtin() {
		got = append(got, c.ContentType())
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Builtin: %q, want %q", got, want)
	}
	codec.Builtin()[0] = nil
	if codec.Builtin()[0] == nil {
		t.Error("Builtin shares its slice")
	}
}

func TestForType(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		t    reflect.Type
		want codec.Codec
	}{
		"nil":                      {nil, nil},
		"bytes":                    {reflect.TypeFor[[]byte](), codec.Raw},
		"named bytes":              {reflect.TypeFor[doc](), codec.Raw},
		"named byte elements":      {reflect.TypeFor[[]myByte](), nil},
		"byte array":               {reflect.TypeFor[[4]byte](), nil},
		"pointer to bytes":         {reflect.TypeFor[*[]byte](), nil},
		"raw json":                 {reflect.TypeFor[json.RawMessage](), codec.JSON},
		"message":                  {reflect.TypeFor[*durationpb.Duration](), codec.Protobuf},
		"message value":            {reflect.TypeFor[durationpb.Duration](), nil},
		"pointer to pointer":       {reflect.TypeFor[**durationpb.Duration](), nil},
		"message interface":        {reflect.TypeFor[proto.Message](), codec.Protobuf},
		"struct embedding message": {reflect.TypeFor[*wrapsPointer](), nil},
		"struct embedding iface":   {reflect.TypeFor[*wrapsInterface](), nil},
		"struct":                   {reflect.TypeFor[order](), nil},
		"any":                      {reflect.TypeFor[any](), nil},
		"string":                   {reflect.TypeFor[string](), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := codec.ForType(test.t); got != test.want {
				t.Errorf("ForType(%v) = %T, want %T", test.t, got, test.want)
			}
		})
	}
}

func TestMarshalRefuses(t *testing.T) {
	t.Parallel()
	ring := []any{nil}
	ring[0] = ring
	loop := &order{}
	loop.Next = loop
	mapLoop := map[string]any{}
	mapLoop["self"] = mapLoop
	var self any
	self = &self
	for name, test := range map[string]struct {
		codec codec.Codec
		value any
		typed bool // as *TypeError
	}{
		"json func in struct":     {codec.JSON, struct{ F func() }{}, true},
		"json slice cycle":        {codec.JSON, ring, false},
		"json pointer cycle":      {codec.JSON, loop, false},
		"json bad raw message":    {codec.JSON, json.RawMessage("{"), false},
		"json empty raw message":  {codec.JSON, json.RawMessage{}, false},
		"json bad pointer to raw": {codec.JSON, &json.RawMessage{'{'}, false},
		"protobuf nil":            {codec.Protobuf, nil, true},
		"protobuf nil message":    {codec.Protobuf, (*durationpb.Duration)(nil), true},
		"protobuf struct":         {codec.Protobuf, order{}, true},
		"protobuf embedding":      {codec.Protobuf, &wrapsPointer{}, true},
		"protobuf embedding nil":  {codec.Protobuf, &wrapsInterface{}, true},
		"protobuf bad string":     {codec.Protobuf, structpb.NewStringValue("\xff"), false},
		"raw nil":                 {codec.Raw, nil, true},
		"raw string":              {codec.Raw, "text", true},
		"raw named elements":      {codec.Raw, []myByte{1}, true},
		"text nil":                {codec.Text, nil, true},
		"text int":                {codec.Text, 7, true},
		"text nil marshaler":      {codec.Text, (*time.Time)(nil), true},
		"text not utf-8":          {codec.Text, "\xff", false},
		"text failing marshaler":  {codec.Text, time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC), false},
		"cbor chan in any":        {codec.CBOR, []any{make(chan int)}, true},
		"cbor slice cycle":        {codec.CBOR, ring, false},
		"cbor pointer cycle":      {codec.CBOR, loop, false},
		"cbor map cycle":          {codec.CBOR, mapLoop, false},
		"cbor pointer to itself":  {codec.CBOR, self, false},
		"cbor year":               {codec.CBOR, time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := test.codec.Marshal(test.value)
			if err == nil || data != nil {
				t.Fatalf("got %q, %v", data, err)
			}
			if _, typed := errors.AsType[*codec.TypeError](err); typed != test.typed {
				t.Errorf("TypeError %v, want %v: %v", typed, test.typed, err)
			}
			if !strings.HasPrefix(err.Error(), "codec: ") {
				t.Errorf("error %q", err)
			}
		})
	}
}

// The error of a value that no format has says where in the value it is.
func TestMarshalSaysWhere(t *testing.T) {
	t.Parallel()
	type item struct {
		Price float64
		Done  chan int
	}
	type ring struct {
		Next *ring
		Done func()
	}
	loop := ring{}
	loop.Next = &loop
	for name, test := range map[string]struct {
		codec codec.Codec
		value any
		want  string
	}{
		"json channel":         {codec.JSON, struct{ Items []item }{[]item{{}}}, "cannot use chan int in struct { Items []codec_test.item } (Items[0].Done)"},
		"json function in any": {codec.JSON, map[string]any{"a": []any{1, func() {}}}, `func() in map[string]interface {} (["a"][1])`},
		"json complex":         {codec.JSON, map[string]complex64{"a": 1}, `cannot use complex64 in map[string]complex64 (["a"])`},
		"json NaN":             {codec.JSON, struct{ Items []any }{[]any{math.NaN()}}, "in Items[0]: JSON has no NaN"},
		"json infinity":        {codec.JSON, []float32{1, float32(math.Inf(-1))}, "in [1]: JSON has no -Inf"},
		"json alone":           {codec.JSON, math.Inf(1), "encode float64: JSON has no +Inf"},
		"json ring":            {codec.JSON, map[string]ring{"a": {}, "b": loop}, "cannot use func()"},
		"cbor channel":         {codec.CBOR, struct{ Items []item }{[]item{{}}}, "chan int in struct { Items []codec_test.item } (Items[0].Done)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := test.codec.Marshal(test.value); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		codec codec.Codec
		data  string
		dst   any
		typed bool // as *TypeError, else *SyntaxError
	}{
		"json chan":           {codec.JSON, "1", new(chan int), true},
		"json other type":     {codec.JSON, `"x"`, new(int), false},
		"json bad raw":        {codec.JSON, `{"a"`, new(json.RawMessage), false},
		"json empty raw":      {codec.JSON, ``, new(json.RawMessage), false},
		"protobuf no message": {codec.Protobuf, "", new(order), true},
		"protobuf dynamic":    {codec.Protobuf, "", new(*dynamicpb.Message), true},
		"protobuf interface":  {codec.Protobuf, "", new(proto.Message), true},
		"protobuf embedding":  {codec.Protobuf, "", new(*wrapsPointer), true},
		"protobuf truncated":  {codec.Protobuf, "\x08", new(*durationpb.Duration), false},
		"raw string":          {codec.Raw, "", new(string), true},
		"text int":            {codec.Text, "7", new(int), true},
		"text refused":        {codec.Text, "down", new(status), false},
		"cbor func":           {codec.CBOR, "\x01", new(func()), true},
		"cbor other type":     {codec.CBOR, "\x61a", new(int), false},
		"cbor duplicate key":  {codec.CBOR, "\xa2\x61a\x01\x61a\x02", new(map[string]int), false},
		"cbor deep":           {codec.CBOR, strings.Repeat("\x81", 300) + "\x01", new(any), false},
		"cbor key in any":     {codec.CBOR, "\xa1\x01\x02", new(any), false},
		"cbor huge map":       {codec.CBOR, "\xbb\x00\x00\x00\x00\xff\xff\xff\xff", new(any), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := test.codec.Unmarshal([]byte(test.data), test.dst)
			_, typed := errors.AsType[*codec.TypeError](err)
			syntax, malformed := errors.AsType[*codec.SyntaxError](err)
			if typed != test.typed || malformed == test.typed {
				t.Fatalf("TypeError %v, SyntaxError %v: %v", typed, malformed, err)
			}
			if malformed && errors.Unwrap(syntax) == nil {
				t.Errorf("nothing wrapped in %v", err)
			}
		})
	}
}

func TestErrorsAreReadable(t *testing.T) {
	t.Parallel()
	_, err := codec.Raw.Marshal(order{})
	if got, want := err.Error(), "codec: raw cannot use codec_test.order: want []byte or a type based on it"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	_, err = codec.Raw.Marshal(nil)
	if got, want := err.Error(), "codec: raw cannot use nil: want []byte or a type based on it"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	err = codec.JSON.Unmarshal([]byte("{"), new(order))
	if got, want := err.Error(), "codec: json: malformed data: unexpected end of JSON input"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	err = codec.JSON.Unmarshal([]byte(`"text"`), new(order))
	if got, want := err.Error(), "codec: json: the data does not fit, does its sender have the same type for this subject?"; !strings.HasPrefix(got, want) {
		t.Errorf("got  %s\nwant %s …", got, want)
	}
}

func TestJSONRawMessageIsVerbatim(t *testing.T) {
	t.Parallel()
	in := json.RawMessage("{ \"a\" : \"<\" }\n")
	for name, v := range map[string]any{"value": in, "pointer": &in} {
		data, err := codec.JSON.Marshal(v)
		if err != nil || string(data) != string(in) {
			t.Errorf("%s: got %q, %v", name, data, err)
		}
	}
	var out json.RawMessage
	if err := codec.JSON.Unmarshal(in, &out); err != nil || string(out) != string(in) {
		t.Errorf("got %q, %v", out, err)
	}
	data, err := codec.JSON.Marshal(json.RawMessage(nil))
	if err != nil || string(data) != "null" {
		t.Errorf("nil: got %q, %v", data, err)
	}
}

func TestRawDoesNotCopy(t *testing.T) {
	t.Parallel()
	buf := []byte("abcdef")
	out, err := codec.Raw.Marshal(buf[:3])
	if err != nil || &out[0] != &buf[0] {
		t.Fatalf("Marshal copied, or %v", err)
	}
	var dst doc
	if err := codec.Raw.Unmarshal(buf[:3], &dst); err != nil || &dst[0] != &buf[0] {
		t.Fatalf("Unmarshal copied, or %v", err)
	}
	_ = append(dst, 'X')
	if string(buf) != "abcdef" {
		t.Errorf("append wrote into the rest of the buffer: %q", buf)
	}
}

func TestProtobufDestinations(t *testing.T) {
	t.Parallel()
	data, err := codec.Protobuf.Marshal(durationpb.New(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	var allocated *durationpb.Duration
	direct := durationpb.New(time.Hour) // reset by Unmarshal
	for name, dst := range map[string]any{"allocated": &allocated, "direct": direct} {
		if err := codec.Protobuf.Unmarshal(data, dst); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if allocated.AsDuration() != time.Minute || direct.AsDuration() != time.Minute {
		t.Errorf("got %v and %v", allocated, direct)
	}
}

func TestCBORIsDeterministicAndReadsAsJSONDoes(t *testing.T) {
	t.Parallel()
	in := map[string]any{"b": int64(-1), "a": uint64(1), "t": time.Unix(1, 5).UTC(), "m": map[string]any{"x": []byte{1}}, "s": "\xff"}
	first, err := codec.CBOR.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, err := codec.CBOR.Marshal(in); err != nil || string(again) != string(first) {
			t.Fatalf("got %x, want %x (%v)", again, first, err)
		}
	}
	var out any
	if err := codec.CBOR.Unmarshal(first, &out); err != nil || !reflect.DeepEqual(out, any(in)) {
		t.Errorf("got %#v, want %#v (%v)", out, in, err)
	}
}

// tree has a cycle, of which the encoding sees nothing.
type tree struct {
	Kids   []*tree `cbor:"kids"`
	Parent *tree   `cbor:"-" json:"parent"`
	hidden *tree
}

// ownForm has a cycle behind a method that encodes it.
type ownForm struct{ self *ownForm }

func (*ownForm) MarshalCBOR() ([]byte, error) { return []byte{0x01}, nil }
func (*ownForm) UnmarshalCBOR([]byte) error   { return nil }

func TestCBORTakesHiddenCycles(t *testing.T) {
	t.Parallel()
	root := &tree{}
	kid := &tree{Parent: root, hidden: root}
	root.Kids = []*tree{kid}
	own := &ownForm{}
	own.self = own
	for _, v := range []any{root, own, map[string]any{"own": own, "root": root}} {
		if _, err := codec.CBOR.Marshal(v); err != nil {
			t.Errorf("%T: %v", v, err)
		}
	}
}

func TestCBORReadsWhatItWrites(t *testing.T) {
	t.Parallel()
	for _, depth := range []int{1, 255, 256, 257, 5000} {
		var v any = "leaf"
		for range depth {
			v = []any{v}
		}
		data, err := codec.CBOR.Marshal(v)
		if (err == nil) != (depth <= 256) {
			t.Errorf("depth %d: %v", depth, err)
		}
		var out any
		if err == nil {
			err = codec.CBOR.Unmarshal(data, &out)
			if err != nil || !reflect.DeepEqual(out, v) {
				t.Errorf("depth %d: %v", depth, err)
			}
		}
	}
	big := make([]int, 200_000)
	data, err := codec.CBOR.Marshal(big)
	if err != nil {
		t.Fatal(err)
	}
	if err := codec.CBOR.Unmarshal(data, &big); err != nil {
		t.Error(err)
	}
}
