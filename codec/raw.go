package codec

import "reflect"

// Raw is the codec for application/octet-stream. It does not change the bytes. It supports []byte
// and types based on it. Another type gives a *[TypeError]. Unmarshal accepts all data, and
// empty data gives an empty slice.
//
// Raw does not copy. Marshal returns its argument, which must not change until the message is
// sent. Unmarshal makes the destination refer to data, which then belongs to the owner of the
// destination. Appending to the destination does not write behind data.
var Raw Codec = rawCodec{}

// rawCodec carries bytes as they are. It has no state.
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

// Unmarshal copies the payload. See Codec.
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
