package bus_test

import (
	"bytes"
	"compress/gzip"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/codec"
)

func compressed(t testing.TB, encoding string, data []byte) []byte {
	t.Helper()
	switch encoding {
	case codec.S2:
		return s2.Encode(nil, data)
	case codec.Gzip:
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		_, err := w.Write(data)
		must(t, err)
		must(t, w.Close())
		return buf.Bytes()
	default:
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		must(t, err)
		defer w.Close()
		return w.EncodeAll(data, nil)
	}
}

// Every bus reads all encodings, in any case, of any codec.
func TestCompressedPayloadsAreRead(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h, got := collect[string](1)
	_, err := bus.Subscribe(b, "a", h)
	must(t, err)
	for _, encoding := range []string{"zstd", "s2", "gzip", "GZip", " zstd "} {
		rawMessage(t, b, compressed(t, strings.ToLower(strings.TrimSpace(encoding)), []byte(`"small"`)), "content-encoding", encoding)
		if v := receive(t, got); v != "small" {
			t.Errorf("%s: got %q", encoding, v)
		}
		rawMessage(t, b, compressed(t, strings.ToLower(strings.TrimSpace(encoding)), []byte(`text`)), "Content-Encoding", encoding, "Content-Type", "text/plain")
		if v := receive(t, got); v != "text" {
			t.Errorf("%s: got %q", encoding, v)
		}
	}
	rawMessage(t, b, []byte(`"plain"`), "Content-Encoding", "identity")
	if v := receive(t, got); v != "plain" {
		t.Errorf("identity: got %q", v)
	}
}

// A payload is compressed where that was asked for, above the threshold, and
// only if it becomes smaller.
func TestCompressionWhereItPays(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 5000)
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(noise)
	zeros := make([]byte, 5000)
	for _, encoding := range []string{"", codec.Zstd, codec.S2, codec.Gzip} {
		for _, tc := range []struct {
			name string
			min  int
			data []byte
			want bool
		}{
			{"default, below", 0, zeros[:1023], false},
			{"default, at", 0, zeros[:1024], true},
			{"own, below", 5000, zeros[:4999], false},
			{"own, at", 5000, zeros, true},
			{"as little as possible", 1, zeros[:200], true},
			{"noise", 0, noise, false},
			{"nothing", 1, nil, false},
		} {
			t.Run(encoding+": "+tc.name, func(t *testing.T) {
				t.Parallel()
				b := bustest.New(t, bus.WithCompression(bus.Compression{Encoding: encoding, MinSize: tc.min}))
				raw := make(chan *nats.Msg, 1)
				_, err := b.Conn().Subscribe("a", func(m *nats.Msg) { raw <- m })
				must(t, err)
				h, got := collect[[]byte](1)
				_, err = bus.Subscribe(b, "a", h)
				must(t, err)
				must(t, bus.Publish(t.Context(), b, "a", tc.data))
				m := receive(t, raw)
				want := ""
				if tc.want {
					want = encoding
				}
				if m.Header.Get("Content-Encoding") != want || (want != "") != (len(m.Data) < len(tc.data)) {
					t.Errorf("%d bytes became %d with %v", len(tc.data), len(m.Data), m.Header)
				}
				if want == "" && m.Header != nil {
					t.Errorf("there is a header: %v", m.Header)
				}
				if v := receive(t, got); !bytes.Equal(v, tc.data) {
					t.Errorf("got %d other bytes", len(v))
				}
				s := b.Stats()
				if s.PublishedBytes != int64(len(m.Data)) || (s.CompressionRatio != 0) != (want != "") {
					t.Errorf("published %d bytes with the ratio %v", s.PublishedBytes, s.CompressionRatio)
				}
				if want != "" && s.CompressionRatio != float64(len(tc.data))/float64(len(m.Data)) {
					t.Errorf("the ratio is %v, %d to %d bytes", s.CompressionRatio, len(tc.data), len(m.Data))
				}
			})
		}
	}
}
