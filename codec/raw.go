package codec

import "reflect"

// Raw is application/octet-stream: bytes as they are. It takes []byte and types based on
// it; everything else is a *[TypeError]. No data is malformed to it, and empty data reads
// as an empty slice.
//
// It never copies. Marshal returns the slice that it was given, which must not change
// until the message is sent. Unmarshal makes the destination point at data: whoever
// receives the value owns data from then on. Appending to the value does not write past
// its end.
var Raw Codec = rawCodec{}

type rawCodec struct{}

const (
	rawName     = "raw"
	rawWant     = "[]byte or a type based on it"
	rawWantDest = "a non-nil pointer to []byte or to a type based on it"
)

func (rawCodec) ContentType() string { return "application/octet-stream" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	if b, ok := v.([]byte); ok {
		return b, nil
	}
	t := reflect.TypeOf(v)
	if !isBytes(t) {
		return nil, &TypeError{Codec: rawName, Type: t, Want: rawWant}
	}
	return reflect.ValueOf(v).Bytes(), nil
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	data = data[:len(data):len(data)]
	if dst, ok := v.(*[]byte); ok && dst != nil {
		*dst = data
		return nil
	}
	dst, err := destination(rawName, v, rawWantDest)
	if err != nil {
		return err
	}
	if !isBytes(dst.Type()) {
		return &TypeError{Codec: rawName, Type: reflect.TypeOf(v), Want: rawWantDest}
	}
	dst.SetBytes(data)
	return nil
}
