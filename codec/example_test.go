package codec_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/omnibus-go/bus/codec"
)

// A codec turns a value into bytes and back; its content type tells the receiver which.
func Example() {
	type Order struct {
		ID int `json:"id"`
	}
	data, err := codec.JSON.Marshal(Order{ID: 7})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(codec.JSON.ContentType(), string(data))

	var order Order
	if err := codec.JSON.Unmarshal(data, &order); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(order.ID)
	// Output:
	// application/json {"id":7}
	// 7
}

// Some types imply their codec; for the others the bus's codec is used.
func ExampleForType() {
	fmt.Println(codec.ForType(reflect.TypeFor[[]byte]()).ContentType())
	fmt.Println(codec.ForType(reflect.TypeFor[json.RawMessage]()).ContentType())
	fmt.Println(codec.ForType(reflect.TypeFor[map[string]int]()))
	// Output:
	// application/octet-stream
	// application/json
	// <nil>
}

// A TypeError is the program's mistake, a SyntaxError the data's.
func ExampleTypeError() {
	_, err := codec.Text.Marshal(7)
	if mistake, ok := errors.AsType[*codec.TypeError](err); ok {
		fmt.Println(mistake)
	}
	// Output:
	// codec: text cannot use int: want a string, a type based on string or a non-nil encoding.TextMarshaler
}

// base64Codec is a codec of one's own.
type base64Codec struct{}

func (base64Codec) ContentType() string { return "application/x-base64" }

func (c base64Codec) Marshal(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, &codec.TypeError{Codec: "base64", Type: reflect.TypeOf(v), Want: "[]byte"}
	}
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

func (c base64Codec) Unmarshal(data []byte, v any) error {
	dst, ok := v.(*[]byte)
	if !ok || dst == nil {
		return &codec.TypeError{Codec: "base64", Type: reflect.TypeOf(v), Want: "a non-nil *[]byte"}
	}
	b, err := base64.StdEncoding.AppendDecode(nil, data)
	if err != nil {
		return &codec.SyntaxError{Codec: "base64", Err: err}
	}
	*dst = b
	return nil
}

// Any type with three methods is a codec. Test it with codectest.Run.
func ExampleCodec() {
	var c codec.Codec = base64Codec{}
	data, err := c.Marshal([]byte("hello"))
	fmt.Println(string(data), err)
	// Output:
	// aGVsbG8= <nil>
}
