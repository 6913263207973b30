package payload_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

func newFormat(encoding string) *payload.Format {
	return payload.New(payload.Config{
		Codec: codec.JSON, Rules: []payload.Rule{{Pattern: "cbor.>", Codec: codec.CBOR}},
		Counters: new(telemetry.Bus), Encoding: encoding, MinSize: 10, MaxDecoded: 1 << 20,
	})
}

func encode[T any](t *testing.T, f *payload.Format, subj string, v T) *outlet.Message {
	t.Helper()
	m := &outlet.Message{Out: wire.Out{Subject: subj}}
	if err := payload.Encode(f, m, v, nil); err != nil {
		t.Fatal(err)
	}
	return m
}

func decode[T any](f *payload.Format, m *outlet.Message) (v T, err error) {
	in := wire.In{Subject: m.Subject, Header: m.Header, Data: m.Data}
	err = f.Decode(payload.TypeOf[T](f), &in, nil, &v)
	return v, err
}

// checked has a Validate method of its pointer, which also changes it.
type checked struct{ Text string }

func (c *checked) Validate() error {
	if c.Text == "" {
		return errors.New("empty")
	}
	c.Text = strings.TrimSpace(c.Text)
	return nil
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("x", 1000)
	for _, encoding := range []string{"", "zstd", "s2", "gzip"} {
		f := newFormat(encoding)
		for _, subj := range []string{"a", "cbor.a"} {
			m := encode(t, f, subj, checked{" " + text + " "})
			if (encoding != "") != (len(m.Data) < 500) {
				t.Errorf("%q: %d bytes", encoding, len(m.Data))
			}
			if got, err := decode[checked](f, m); err != nil || got.Text != text {
				t.Errorf("%q, %s: got %d bytes, %v", encoding, subj, len(got.Text), err)
			}
			if named := wire.Get(m.Header, wire.HeaderContentType); (named != "") != (subj == "cbor.a") {
				t.Errorf("%s has the content type %q", subj, named)
			}
		}
	}
}

// A nil pointer has no value to validate.
func TestNilIsInvalid(t *testing.T) {
	t.Parallel()
	f := newFormat("")
	err := payload.Encode[*checked](f, &outlet.Message{Out: wire.Out{Subject: "a"}}, nil, nil)
	if _, invalid := errors.AsType[*payload.InvalidError](err); !invalid {
		t.Errorf("encoded: %v", err)
	}
	_, err = decode[*checked](f, &outlet.Message{Out: wire.Out{Subject: "a", Data: []byte("null")}})
	if _, invalid := errors.AsType[*payload.InvalidError](err); !invalid {
		t.Errorf("decoded: %v", err)
	}
	if err := payload.Encode[*int](f, &outlet.Message{Out: wire.Out{Subject: "a"}}, nil, nil); err != nil {
		t.Errorf("a type without Validate: %v", err)
	}
}

// loud repeats the payload in its errors.
type loud string

var errLoud = errors.New("loud")

func (l loud) Validate() error { return fmt.Errorf("%w: %s", errLoud, string(l)) }

func TestErrorsAreShort(t *testing.T) {
	t.Parallel()
	m := &outlet.Message{Out: wire.Out{Subject: "a", Data: []byte(strconv.Quote(strings.Repeat("x", 1<<20)))}}
	_, err := decode[loud](newFormat(""), m)
	if !errors.Is(err, errLoud) || len(err.Error()) > 4<<10 {
		t.Errorf("%.200v", err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	f := newFormat("")
	_, invalid := errors.AsType[*payload.InvalidError](payload.Encode(f, &outlet.Message{}, checked{}, nil))
	_, unencodable := errors.AsType[*payload.CodecError](payload.Encode(f, &outlet.Message{}, make(chan int), nil))
	if !invalid || !unencodable {
		t.Errorf("invalid %v, unencodable %v", invalid, unencodable)
	}
	for header, unknown := range map[string]bool{wire.HeaderContentType: true, wire.HeaderContentEncoding: true, "X": false} {
		m := &outlet.Message{Out: wire.Out{Subject: "a", Data: []byte("{")}}
		m.SetHeader(header, "application/new")
		_, err := decode[checked](f, m)
		if _, ok := errors.AsType[*payload.CodecError](err); !ok || errors.Is(err, payload.ErrUnknown) != unknown {
			t.Errorf("%s: %v", header, err)
		}
	}
}

// An interface may hold a protobuf message. Who reads the message knows its type, and must
// find the codec.
func TestMessageInAnInterface(t *testing.T) {
	t.Parallel()
	f := newFormat("")
	sent := durationpb.New(time.Hour)
	for name, m := range map[string]*outlet.Message{
		"as proto.Message": encode[proto.Message](t, f, "a", sent),
		"as any":           encode[any](t, f, "a", sent),
		"as itself":        encode(t, f, "a", sent),
	} {
		got, err := decode[*durationpb.Duration](f, m)
		if err != nil || !proto.Equal(got, sent) {
			t.Errorf("%s: got %v, %v from %q", name, got, err, m.Data)
		}
	}
	if named := wire.Get(encode[any](t, f, "a", 1).Header, wire.HeaderContentType); named != "" {
		t.Errorf("a number has the content type %q", named)
	}
}

// JSON reads a number in an interface as a float64. It refuses one that this rounds, wherever it
// comes from. The same value in a subject of its own type is carried.
func TestNumberInAnInterface(t *testing.T) {
	t.Parallel()
	f := newFormat("")
	type named uint64
	for _, v := range []any{int64(1<<53 + 1), int64(math.MinInt64 + 3), uint64(math.MaxUint64), named(1<<53 + 1), int64(math.MinInt64 + 1),
		struct{ A int64 }{1<<53 + 1}, &struct{ A []uint64 }{[]uint64{math.MaxUint64}}, json.Number("9007199254740993"), big.NewInt(1<<53 + 1),
		map[string]any{"a": []any{int64(1<<53 + 1)}}, struct{ A any }{int64(math.MaxInt64)}, map[int]any{1: named(1<<53 + 1)}} {
		err := payload.Encode(f, &outlet.Message{Out: wire.Out{Subject: "a"}}, v, nil)
		if e, ok := errors.AsType[*payload.CodecError](err); !ok || !strings.Contains(e.Error(), "float64") {
			t.Errorf("%T %v: %v", v, v, err)
		}
		encode(t, f, "cbor.a", v) // which has integers
	}
	for _, v := range []any{int64(1 << 53), int64(-1 << 53), uint64(1 << 60), map[string]any{"a": int64(math.MinInt64)}, 1.5} {
		encode(t, f, "a", v)
	}
	encode[any](t, f, "a", json.RawMessage("9007199254740993")) // it is written as it is
	encode(t, f, "a", int64(math.MaxInt64))                     // the reader knows the type
	encode(t, f, "a", struct{ A int64 }{math.MaxInt64})
}

// Bytes in an interface would become a string in base64.
func TestBytesInAnInterface(t *testing.T) {
	t.Parallel()
	f := newFormat("")
	err := payload.Encode[any](f, &outlet.Message{Out: wire.Out{Subject: "a"}}, []byte("x"), nil)
	if e, ok := errors.AsType[*payload.CodecError](err); !ok || !strings.Contains(e.Error(), "base64") {
		t.Errorf("got %v", err)
	}
	encode[any](t, f, "cbor.a", []byte("x"))
	encode(t, f, "a", []byte("x"))
}

func TestBytesAreNotCopied(t *testing.T) {
	f := newFormat("")
	data, m := []byte("data"), &outlet.Message{Out: wire.Out{Subject: "cbor.a"}}
	if n := testing.AllocsPerRun(100, func() { _ = payload.Encode(f, m, data, nil) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if &m.Data[0] != &data[0] || m.Header != nil {
		t.Errorf("the message is %+v", m)
	}
}

func TestReplyIsEncodedAsTheRequest(t *testing.T) {
	t.Parallel()
	f := newFormat("zstd")
	m := &outlet.Message{Out: wire.Out{Subject: "_INBOX.1"}}
	h := wire.Header{wire.HeaderContentType: {codec.CBOR.ContentType()}}
	if err := payload.EncodeReply(f, m, checked{strings.Repeat("x", 1000)}, payload.Request{Subject: "a", Header: h}); err != nil {
		t.Fatal(err)
	}
	if named := wire.Get(m.Header, wire.HeaderContentType); named != codec.CBOR.ContentType() || len(m.Data) < 1000 {
		t.Errorf("content type %q, %d bytes; the request accepts no compression", named, len(m.Data))
	}
}
