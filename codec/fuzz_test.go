package codec_test

import (
	"bytes"
	"encoding/json"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/omnibus-go/bus/codec"
)

// fuzz decodes data into each type of likes. It must not panic or change data, and what
// it accepted must survive being encoded and decoded again.
func fuzz(f *testing.F, c codec.Codec, seeds [][]byte, likes ...any) {
	for _, seed := range append(seeds, nil, []byte("null"), []byte{0xff}) {
		f.Add(seed)
	}
	for _, like := range likes {
		if data, err := c.Marshal(like); err == nil {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := string(data)
		for _, like := range likes {
			value := decode(t, c, data, like)
			if string(data) != before {
				t.Fatalf("%T: data changed", like)
			}
			if value == nil {
				continue
			}
			again, err := c.Marshal(value)
			if c == codec.CBOR && err != nil && readOnly(err) {
				continue
			}
			if err != nil {
				t.Fatalf("%T was decoded from %q and cannot be encoded: %v", value, data, err)
			}
			if decode(t, c, again, like) == nil {
				t.Fatalf("%T was decoded from %q, but not from its own encoding %q", value, data, again)
			}
		}
	})
}

// readOnly reports whether err refuses what CBOR can read and not write: a year that a number
// of seconds can name and a text cannot, and keys other than strings, numbers and bools in a
// map[any]any.
func readOnly(err error) bool {
	return strings.Contains(err.Error(), "year outside of range") ||
		strings.Contains(err.Error(), "as the key of a map that has interfaces as keys")
}

// decode returns nil where the codec refuses data.
func decode(t *testing.T, c codec.Codec, data []byte, like any) any {
	dst := reflect.New(reflect.TypeOf(like))
	if err := c.Unmarshal(data, dst.Interface()); err != nil {
		if _, ok := err.(*codec.SyntaxError); !ok {
			t.Fatalf("%T: not a *SyntaxError: %v", like, err)
		}
		return nil
	}
	return dst.Elem().Interface()
}

func FuzzJSON(f *testing.F) {
	fuzz(f, codec.JSON, nil, someOrder(), map[string]any{"a": 1}, []any{"x"}, json.RawMessage("1"), "",
		someDeployment(), charge{}, durationpb.New(time.Hour), parsed(structpb.NewStruct(map[string]any{"a": 1.5})))
}

func FuzzProtobuf(f *testing.F) {
	fuzz(f, codec.Protobuf, nil, durationpb.New(time.Hour), structpb.NewStringValue("x"))
}

func FuzzRaw(f *testing.F) { fuzz(f, codec.Raw, nil, []byte("x"), doc("x")) }

func FuzzText(f *testing.F) {
	fuzz(f, codec.Text, [][]byte{[]byte("2026-01-02T03:04:05Z")}, "x", word("x"), status("x"), big.NewInt(7))
}

func FuzzCBOR(f *testing.F) {
	seeds := [][]byte{{0xc0, 0x61, 'x'}, {0xc2, 0x41, 1}, {0x9f, 1, 0xff}, {0xd8, 0x20, 0xf6}, {0xf9, 0x7e, 1}}
	for _, depth := range []int{250, 255, 256} {
		seeds = append(seeds, append(bytes.Repeat([]byte{0x81}, depth), 0))
	}
	fuzz(f, codec.CBOR, seeds, someOrder(), map[string]any{"a": 1}, []any{"x"}, status("x"), time.Unix(1, 2), map[int]string{1: "a"},
		someDeployment(), charge{}, json.RawMessage(`{"a":1.5}`), recursive{}, *big.NewInt(7), map[any]any{})
}
