package bus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
)

var update = flag.Bool("update", false, "write the golden files of the wire format anew")

// wireCase sends messages whose form is pinned.
type wireCase struct {
	name string
	opts []bus.Option
	want int // messages
	send func(ctx context.Context, b *bus.Bus) error
}

func wireCases() []wireCase {
	const subject = "golden.a"
	long := order{ID: strings.Repeat("long ", 250)}
	zipped := func(encoding string) bus.Option {
		return bus.WithCompression(bus.Compression{Encoding: encoding})
	}
	return []wireCase{
		{"json", nil, 1, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, subject, order{ID: "ü<1>", Total: 9.5, Tags: map[string]int{"b": 2, "a": 1}})
		}},
		{"json-text", nil, 1, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, subject, "text") }},
		{"json-raw", nil, 1, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, subject, json.RawMessage("{ \"a\" : 1 }"))
		}},
		{"json-null", nil, 1, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, subject, (*order)(nil)) }},
		{"bytes", nil, 1, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, subject, []byte{0, 1, 'x', 0xff})
		}},
		{"empty", nil, 1, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, subject, []byte(nil)) }},
		{"protobuf", nil, 1, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, subject, &durationpb.Duration{Seconds: 3, Nanos: 4})
		}},
		{"as-cbor", nil, 1, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, subject, order{ID: "x", Total: 1.5, Tags: map[string]int{"b": 2, "a": 1}}, bus.As(codec.CBOR))
		}},
		{"as-text", nil, 1, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, subject, "text", bus.As(codec.Text))
		}},
		{"codec-of-the-bus", []bus.Option{bus.WithCodec(codec.CBOR)}, 1, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, subject, "text")
		}},
		{"codec-of-the-subject", []bus.Option{bus.WithCodecFor("golden.*", codec.Text)}, 1, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, subject, "text")
		}},
		{"header", nil, 1, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, subject, 1, bus.WithHeader("X-Two", "a"), bus.WithHeader("X-Two", "b"), bus.WithHeader("x-lower", "größe"))
		}},
		{"msgid", nil, 1, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, subject, 1, bus.MsgID("order/1"))
		}},
		{"batch", nil, 2, func(ctx context.Context, b *bus.Bus) error {
			return bus.PublishBatch(ctx, b, subject, []int{1, 2})
		}},
		{"async", nil, 1, func(ctx context.Context, b *bus.Bus) error { return bus.PublishAsync(ctx, b, subject, 1) }},
		{"zstd", []bus.Option{zipped(codec.Zstd)}, 1, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, subject, long) }},
		{"s2", []bus.Option{zipped(codec.S2)}, 1, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, subject, long) }},
		{"gzip", []bus.Option{zipped(codec.Gzip)}, 1, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, subject, long) }},
		{"zstd-cbor", []bus.Option{zipped(codec.Zstd)}, 1, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, subject, long, bus.As(codec.CBOR), bus.MsgID("1"))
		}},
		{"not-compressed", []bus.Option{zipped(codec.Zstd)}, 1, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, subject, "short") }},
		{"request", nil, 2, answered(nil)},
		{"request-cbor", nil, 2, answered(nil, bus.As(codec.CBOR), bus.WithHeader("X-A", "b"))},
		{"request-compressing", []bus.Option{zipped(codec.S2)}, 2, answered(nil)},
		{"request-public-error", nil, 2, answered(bus.Public("404", "no such order: ü"))},
		{"request-internal-error", nil, 2, answered(errors.New("secret"))},
		{"store", nil, 2, stored()},
		{"store-msgid", nil, 2, stored(bus.MsgID("order/1"))},
		{"store-expect-stream", nil, 2, stored(bus.ExpectLastSequence(0))},
		{"store-expect-subject", nil, 2, stored(bus.ExpectLastSubjectSequence(0), bus.TTL(90*time.Second))},
		{"store-expect-filter", nil, 2, stored(bus.ExpectLastSequenceOf("golden.>", 0))},
		{"store-async", nil, 2, storedAsync},
		{"store-batch", nil, 4, storedBatch},
		{"traced", []bus.Option{bus.WithTracerProvider(oteltest.New().TracerProvider())}, 1, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, subject, 1)
		}},
		{"traced-request", []bus.Option{bus.WithTracerProvider(oteltest.New().TracerProvider())}, 2, answered(nil)},
	}
}

// TestWireFormat pins what others see on the wire: a plain client listens, and
// testdata/golden has what it must see. A change there breaks running clusters.
func TestWireFormat(t *testing.T) {
	t.Parallel()
	for _, tc := range wireCases() {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t, append(tc.opts, anyPort(), bus.WithInboxPrefix("_INBOX"))...)
			nc := rawClient(t, b)
			seen := make(chan *nats.Msg, 10)
			for _, s := range []string{"golden.>", "_INBOX.>"} {
				_, err := nc.ChanSubscribe(s, seen)
				must(t, err)
			}
			flushRaw(t, nc)
			must(t, tc.send(t.Context(), b))
			var text strings.Builder
			for n := 0; n < tc.want; {
				if m := receive(t, seen); !isAPI(m) {
					text.WriteString(onTheWire(t, m))
					n++
				}
			}
			compareGolden(t, filepath.Join("testdata", "golden", tc.name+".txt"), text.String())
		})
	}
}

// answered makes a request to a responder that returns fail.
func answered(fail error, opts ...bus.RequestOption) func(context.Context, *bus.Bus) error {
	return func(ctx context.Context, b *bus.Bus) error {
		_, err := bus.Respond(b, "golden.quote", func(context.Context, *bus.Msg[order]) (order, error) {
			return order{ID: "answer"}, fail
		})
		if err != nil {
			return err
		}
		_, err = bus.Request[order](ctx, b, "golden.quote", order{ID: "question"}, opts...)
		if _, remote := errors.AsType[*bus.RemoteError](err); remote && fail != nil {
			return nil
		}
		return err
	}
}

// stored stores a message; the answer is the server's.
func stored(opts ...bus.StoreOption) func(context.Context, *bus.Bus) error {
	return func(ctx context.Context, b *bus.Bus) error {
		st, err := goldenStream(ctx, b)
		if err != nil {
			return err
		}
		_, err = bus.PublishTo(ctx, st, "golden.stored", order{ID: "x"}, opts...)
		return err
	}
}

func goldenStream(ctx context.Context, b *bus.Bus) (*bus.Stream, error) {
	return b.Stream(ctx, bus.StreamConfig{Name: "GOLDEN", Subjects: []string{"golden.stored"}, AtomicBatches: true, MessageTTL: true})
}

func storedAsync(ctx context.Context, b *bus.Bus) error {
	st, err := goldenStream(ctx, b)
	if err != nil {
		return err
	}
	f, err := bus.PublishToAsync(ctx, st, "golden.stored", order{ID: "x"}, bus.AutoID())
	if err != nil {
		return err
	}
	return second(f.Wait(ctx))
}

// storedBatch stores three messages; only the last has an answer.
func storedBatch(ctx context.Context, b *bus.Bus) error {
	st, err := goldenStream(ctx, b)
	if err != nil {
		return err
	}
	return second(bus.PublishToBatch(ctx, st, bus.ItemOf("golden.stored", order{ID: "x"}),
		bus.ItemOf("golden.stored", "text", bus.As(codec.Text)), bus.ItemOf("golden.stored", 1, bus.MsgID("order/1"))))
}

// changing is what differs from run to run.
var changing = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`_INBOX\.\S+`), "(inbox)"},
	{regexp.MustCompile(`traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-01`), "traceparent: 00-(32 hexadecimal digits)-(16 hexadecimal digits)-01"},
	{regexp.MustCompile(`bus-omnibus-[0-9]+`), "(domain)"},
	{regexp.MustCompile(`Nats-Batch-Id: [0-9A-Za-z]{22}\.1`), "Nats-Batch-Id: (22 letters and digits).1"},
	{regexp.MustCompile(`batch\\":\\"[0-9A-Za-z]{22}\.1`), `batch\":\"(22 letters and digits).1`},
	{regexp.MustCompile(`Nats-Msg-Id: [0-9A-Za-z]{22}\b`), "Nats-Msg-Id: (22 letters and digits)"},
}

// isAPI reports whether m is JetStream's answer to a stream's declaration.
func isAPI(m *nats.Msg) bool {
	return bytes.Contains(m.Data, []byte(`"type":"io.nats.jetstream.api.`))
}

// onTheWire renders m. Compressed payloads are shown decompressed, since what
// exactly they are is up to the compressing library's version.
func onTheWire(t *testing.T, m *nats.Msg) string {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "subject: %s\n", m.Subject)
	if m.Reply != "" {
		fmt.Fprintf(&text, "reply: %s\n", m.Reply)
	}
	for _, key := range slices.Sorted(maps.Keys(m.Header)) {
		for _, value := range m.Header[key] {
			fmt.Fprintf(&text, "header: %s: %s\n", key, value)
		}
	}
	how := ""
	data := m.Data
	if encoding := m.Header.Get("Content-Encoding"); encoding != "" {
		how = ", compressed"
		data = plain(t, encoding, data)
	}
	fmt.Fprintf(&text, "payload%s: %q\n\n", how, data)
	s := text.String()
	for _, c := range changing {
		s = c.pattern.ReplaceAllString(s, c.text)
	}
	return s
}

// plain decompresses data with the format's own library.
func plain(t *testing.T, encoding string, data []byte) []byte {
	t.Helper()
	var out []byte
	var err error
	switch encoding {
	case "zstd":
		var r *zstd.Decoder
		r, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		must(t, err)
		defer r.Close()
		out, err = r.DecodeAll(data, nil)
	case "s2":
		out, err = s2.Decode(nil, data)
	case "gzip":
		var r *gzip.Reader
		r, err = gzip.NewReader(bytes.NewReader(data))
		must(t, err)
		out, err = io.ReadAll(r)
	default:
		t.Fatalf("unknown encoding %q", encoding)
	}
	must(t, err)
	return out
}

func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if got != strings.ReplaceAll(string(want), "\r\n", "\n") {
		t.Errorf("the wire format differs from %s; if that is meant, run go test -run %s -update\ngot:\n%swant:\n%s", file, "TestWireFormat", got, want)
	}
}

// Every golden file belongs to a case.
func TestWireFormatHasNoOldFiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/golden/*")
	must(t, err)
	for _, f := range files {
		if !slices.ContainsFunc(wireCases(), func(tc wireCase) bool { return filepath.Base(f) == tc.name+".txt" }) {
			t.Errorf("no case writes %s", f)
		}
	}
}
