package codec_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnibus-go/bus/codec"
)

type small struct {
	ID    int64   `json:"id"`
	Name  string  `json:"name"`
	Price float64 `json:"price"`
}

type timed struct {
	ID int64     `json:"id"`
	At time.Time `json:"at"`
}

type envelope struct {
	Type string `json:"type"`
	Data any    `json:"data"`
}

var benchmarks = []struct {
	name  string
	codec codec.Codec
	value any
}{
	{"json/struct", codec.JSON, small{7, "widget", 12.5}},
	{"json/raw", codec.JSON, json.RawMessage(`{"id":7,"name":"widget","price":12.5}`)},
	{"json/time", codec.JSON, timed{7, time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}},
	{"json/any", codec.JSON, map[string]any{"id": 7, "name": "widget", "price": 0.30000000000000004, "tags": []any{"a", "b"}}},
	{"json/held", codec.JSON, envelope{"order", small{7, "widget", 12.5}}},
	{"protobuf/message", codec.Protobuf, durationpb.New(time.Hour)},
	{"raw/bytes", codec.Raw, make([]byte, 128)},
	{"raw/named", codec.Raw, make(doc, 128)},
	{"text/string", codec.Text, "hello, world"},
	{"cbor/struct", codec.CBOR, small{7, "widget", 12.5}},
	{"cbor/time", codec.CBOR, timed{7, time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}},
	{"cbor/any", codec.CBOR, map[string]any{"id": 7, "name": "widget", "tags": []any{"a", "b"}}},
}

func BenchmarkMarshal(b *testing.B) {
	for _, bm := range benchmarks {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bm.codec.Marshal(bm.value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	for _, bm := range benchmarks {
		data, err := bm.codec.Marshal(bm.value)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				dst := reflect.New(reflect.TypeOf(bm.value)).Interface()
				if err := bm.codec.Unmarshal(data, dst); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
