package wire_test

import (
	"bytes"
	stdgzip "compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/omnibus-go/bus/internal/wire"
)

const mib = 1 << 20

var encodings = []string{wire.EncodingZstd, wire.EncodingS2, wire.EncodingGzip}

// document is JSON of about n bytes, as services send it.
func document(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	var items []map[string]any
	for size := 0; size < n; size += 150 {
		items = append(items, map[string]any{
			"id": rng.Uint64(), "sku": fmt.Sprintf("SKU-%06d", rng.IntN(1e6)), "price": rng.Float64() * 100,
			"status": []string{"new", "paid", "shipped"}[rng.IntN(3)], "customer": fmt.Sprintf("c%x@example.com", rng.Uint32()), "gift": rng.IntN(2) == 0,
		})
	}
	data, err := json.Marshal(items)
	if err != nil {
		panic(err)
	}
	return data
}

func noise(n int) []byte {
	rng := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func compress(t testing.TB, c *wire.Coder, encoding string, src []byte) []byte {
	t.Helper()
	dst, ok, err := c.Compress(encoding, src)
	if err != nil || !ok {
		t.Fatalf("%s: %v, %v", encoding, ok, err)
	}
	return dst
}

func TestCompressRoundTrip(t *testing.T) {
	t.Parallel()
	c := wire.NewCoder(8 * mib)
	for _, encoding := range encodings {
		for _, n := range []int{1000, 8 << 10, 200_000, mib} {
			src := document(n)
			dst := compress(t, c, encoding, src)
			if len(dst) >= len(src) {
				t.Errorf("%s: %d bytes became %d", encoding, len(src), len(dst))
			}
			got, err := c.Decompress(encoding, dst)
			if err != nil || !bytes.Equal(got, src) {
				t.Errorf("%s of %d bytes: %v", encoding, len(src), err)
			}
		}
	}
}

func TestCompressOnlyWhereItShrinks(t *testing.T) {
	t.Parallel()
	c := wire.NewCoder(mib)
	for _, encoding := range slices.Concat(encodings, []string{"", "identity"}) {
		for name, src := range map[string][]byte{"nil": nil, "empty": {}, "one byte": {1}, "noise": noise(5000)} {
			if dst, ok, err := c.Compress(encoding, src); dst != nil || ok || err != nil {
				t.Errorf("%q, %s: %d bytes, %v, %v", encoding, name, len(dst), ok, err)
			}
		}
	}
	if _, ok, err := c.Compress("", document(5000)); ok || err != nil {
		t.Errorf("no encoding: %v, %v", ok, err)
	}
}

func TestOutputsAreTheCallers(t *testing.T) {
	t.Parallel()
	c := wire.NewCoder(mib)
	one, two := document(8000), bytes.Repeat([]byte("other"), 2000)
	for _, encoding := range encodings {
		packed := compress(t, c, encoding, one)
		kept := bytes.Clone(packed)
		first, err := c.Decompress(encoding, packed)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if _, err := c.Decompress(encoding, compress(t, c, encoding, two)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(packed, kept) || !bytes.Equal(first, one) {
			t.Errorf("%s: a later call changed an earlier result", encoding)
		}
	}
}

func TestUnknownEncoding(t *testing.T) {
	t.Parallel()
	c := wire.NewCoder(mib)
	for _, encoding := range []string{"br", "gzip, zstd", "deflate", strings.Repeat("x", 1000)} {
		_, _, err := c.Compress(encoding, nil)
		for _, err := range []error{err, second(c.Decompress(encoding, nil))} {
			if unknown, ok := errors.AsType[*wire.UnknownEncodingError](err); !ok || unknown.Encoding != encoding || len(err.Error()) > 300 {
				t.Errorf("%q: %v", encoding, err)
			}
		}
	}
}

func second(_ []byte, err error) error { return err }

func TestNoEncodingReturnsTheSource(t *testing.T) {
	t.Parallel()
	src := []byte("longer than the limit")
	for _, encoding := range []string{"", "identity", "Identity"} {
		if got, err := wire.NewCoder(3).Decompress(encoding, src); err != nil || &got[0] != &src[0] {
			t.Errorf("%q: %q, %v", encoding, got, err)
		}
	}
}

func TestEncodingNamesForgiveCase(t *testing.T) {
	t.Parallel()
	c, src := wire.NewCoder(mib), document(2000)
	for _, encoding := range encodings {
		got, err := c.Decompress(" "+strings.ToUpper(encoding), compress(t, c, encoding, src))
		if err != nil || !bytes.Equal(got, src) {
			t.Errorf("%s: %v", encoding, err)
		}
	}
}

func TestLimitIsExact(t *testing.T) {
	t.Parallel()
	src := bytes.Repeat([]byte("abcdefgh"), 1000)
	for _, encoding := range encodings {
		packed := compress(t, wire.NewCoder(mib), encoding, src)
		for limit, fits := range map[int]bool{len(src) + 1: true, len(src): true, len(src) - 1: false, 1: false, 0: false, -1: false} {
			got, err := wire.NewCoder(limit).Decompress(encoding, packed)
			bomb, is := errors.AsType[*wire.BombError](err)
			if (err == nil) != fits || is == fits || fits && !bytes.Equal(got, src) {
				t.Errorf("%s, limit %d: %v", encoding, limit, err)
			}
			if is && (bomb.Encoding != encoding || bomb.Limit != max(limit, 0)) {
				t.Errorf("%s, limit %d: %+v", encoding, limit, bomb)
			}
		}
	}
}

// bombs decompress to 10 MiB of zeros and more, or say so.
func bombs(t testing.TB) map[string]struct {
	encoding string
	data     []byte
} {
	zeros := make([]byte, 10*mib)
	big := wire.NewCoder(16 * mib)
	gz := compress(t, big, wire.EncodingGzip, zeros)
	lying := bytes.Clone(gz)
	binary.LittleEndian.PutUint32(lying[len(lying)-4:], 5)
	frame := zstdStream(t, zeros[:mib/2], mib)
	type bomb = struct {
		encoding string
		data     []byte
	}
	return map[string]bomb{
		"zstd":                 {"zstd", compress(t, big, "zstd", zeros)},
		"zstd without size":    {"zstd", zstdStream(t, zeros, 8*mib)},
		"zstd of many frames":  {"zstd", bytes.Repeat(frame, 100)},
		"zstd only claiming":   {"zstd", []byte("\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\x7f\x01\x00\x00")},
		"s2":                   {"s2", compress(t, big, "s2", zeros)},
		"s2 only claiming":     {"s2", []byte("\xff\xff\xff\xff\x0f\x00a")},
		"gzip":                 {"gzip", gz},
		"gzip lying":           {"gzip", lying},
		"gzip of many members": {"gzip", bytes.Repeat(compress(t, big, "gzip", zeros[:mib/2]), 20)},
	}
}

// zstdStream writes in pieces, so that the frame does not say how long it becomes.
func zstdStream(t testing.TB, src []byte, window int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window))
	if err != nil {
		t.Fatal(err)
	}
	for piece := range slices.Chunk(src, 100_000) {
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestBombs is not parallel: it measures what is allocated.
func TestBombs(t *testing.T) {
	for name, bomb := range bombs(t) {
		t.Run(name, func(t *testing.T) {
			c := wire.NewCoder(mib)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			got, err := c.Decompress(bomb.encoding, bomb.data)
			runtime.ReadMemStats(&after)
			if _, ok := errors.AsType[*wire.BombError](err); !ok || got != nil {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			allocated := after.TotalAlloc - before.TotalAlloc
			t.Logf("%d bytes in, %d KiB allocated", len(bomb.data), allocated>>10)
			if allocated > 10*mib { // all steps of growing to the limit together
				t.Errorf("%d MiB allocated", allocated/mib)
			}
		})
	}
}

func TestCorrupt(t *testing.T) {
	t.Parallel()
	c, src := wire.NewCoder(mib), document(3000)
	for _, encoding := range encodings {
		packed := compress(t, c, encoding, src)
		for n := range packed {
			wantCorrupt(t, c, encoding, packed[:n])
		}
		wantCorrupt(t, c, encoding, nil)
		wantCorrupt(t, c, encoding, append(bytes.Clone(packed), 0))
		wantCorrupt(t, c, encoding, append(bytes.Clone(packed), "rubbish"...))
	}
}

func wantCorrupt(t *testing.T, c *wire.Coder, encoding string, data []byte) {
	t.Helper()
	_, err := c.Decompress(encoding, data)
	corrupt, ok := errors.AsType[*wire.CorruptError](err)
	if !ok || corrupt.Encoding != encoding || corrupt.Err == nil || corrupt.Err == io.EOF {
		t.Errorf("%s of %d bytes: %v", encoding, len(data), err)
	}
}

// TestDamage: where there is a checksum, damaged data is refused or was not hurt.
func TestDamage(t *testing.T) {
	t.Parallel()
	c, src := wire.NewCoder(mib), document(2000)
	for _, encoding := range encodings {
		packed := compress(t, c, encoding, src)
		for i := range packed {
			damaged := bytes.Clone(packed)
			damaged[i] ^= 0x55
			got, err := c.Decompress(encoding, damaged)
			if err == nil && encoding != wire.EncodingS2 && !bytes.Equal(got, src) {
				t.Errorf("%s: damage at %d was not noticed", encoding, i)
			}
		}
		for n := range 200 {
			_, _ = c.Decompress(encoding, noise(n))
		}
		got, err := c.Decompress(encoding, packed) // the pooled readers have survived
		if err != nil || !bytes.Equal(got, src) {
			t.Errorf("%s afterwards: %v", encoding, err)
		}
	}
}

func TestOthersCanTalkToUs(t *testing.T) {
	t.Parallel()
	src := document(3000)
	var gz bytes.Buffer
	w := stdgzip.NewWriter(&gz)
	_, err := w.Write(src)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	c := wire.NewCoder(len(src)) // the windows of the zstd streams are greater
	for name, test := range map[string]struct {
		encoding string
		data     []byte
	}{
		"gzip of the standard library": {"gzip", gz.Bytes()},
		"zstd stream without a size":   {"zstd", zstdStream(t, src, 8*mib)},
		"zstd with the largest window": {"zstd", widestWindow(zstdStream(t, src, 8*mib))},
		"snappy block":                 {"s2", s2.EncodeSnappy(nil, src)},
		"best s2 block":                {"s2", s2.EncodeBest(nil, src)},
	} {
		if got, err := c.Decompress(test.encoding, test.data); err != nil || !bytes.Equal(got, src) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// widestWindow claims the window of 3.75 TB.
func widestWindow(frame []byte) []byte {
	frame[5] = 0xff
	return frame
}

func TestWeCanTalkToOthers(t *testing.T) {
	t.Parallel()
	src := document(3000)
	r, err := stdgzip.NewReader(bytes.NewReader(compress(t, wire.NewCoder(mib), "gzip", src)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, src) {
		t.Error(err)
	}
}

func TestCoderIsConcurrent(t *testing.T) {
	t.Parallel()
	exercise(t, wire.NewCoder(mib))
}

// exercise uses all of c from several goroutines.
func exercise(t *testing.T, c *wire.Coder) {
	var wg sync.WaitGroup
	for i := range 6 {
		src := document(2000 * (i + 1))
		wg.Go(func() {
			for n := range 30 {
				encoding := encodings[n%len(encodings)]
				dst, ok, err := c.Compress(encoding, src)
				if err != nil || !ok {
					t.Errorf("%s: %v, %v", encoding, ok, err)
					return
				}
				got, err := c.Decompress(encoding, dst)
				if err != nil || !bytes.Equal(got, src) {
					t.Errorf("%s: %v", encoding, err)
				}
				if _, err := c.Decompress(encoding, dst[:len(dst)/2]); err == nil {
					t.Errorf("%s: truncated data was taken", encoding)
				}
			}
		})
	}
	wg.Wait()
}

// TestCodersInBubbles: a channel that crossed from one bubble to the other would panic,
// and a goroutine that a Coder left would fail its bubble.
func TestCodersInBubbles(t *testing.T) {
	for i := range 2 {
		t.Run(fmt.Sprintf("one after the other %d", i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { exercise(t, wire.NewCoder(mib)) })
		})
	}
	for i := range 2 {
		t.Run(fmt.Sprintf("at once %d", i), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { exercise(t, wire.NewCoder(mib)) })
		})
	}
}

func fuzzDecompress(f *testing.F, encoding string) {
	const limit = 64 << 10
	c := wire.NewCoder(limit)
	for _, src := range [][]byte{document(500), bytes.Repeat([]byte{0}, 2*limit), []byte("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")} {
		if dst, ok, err := c.Compress(encoding, src); ok && err == nil {
			f.Add(dst)
			f.Add(dst[:len(dst)/2])
		}
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := c.Decompress(encoding, data)
		if len(got) > limit {
			t.Fatalf("%d bytes are over the limit", len(got))
		}
		if err != nil {
			_, bomb := errors.AsType[*wire.BombError](err)
			_, corrupt := errors.AsType[*wire.CorruptError](err)
			if got != nil || !bomb && !corrupt {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
		}
		// What fits must come back, whatever it looks like.
		dst, ok, err := c.Compress(encoding, data)
		if err != nil {
			t.Fatal(err)
		}
		if ok && len(data) <= limit {
			if again, err := c.Decompress(encoding, dst); err != nil || !bytes.Equal(again, data) {
				t.Fatalf("round trip: %v", err)
			}
		}
	})
}

func FuzzDecompressZstd(f *testing.F) { fuzzDecompress(f, wire.EncodingZstd) }
func FuzzDecompressS2(f *testing.F)   { fuzzDecompress(f, wire.EncodingS2) }
func FuzzDecompressGzip(f *testing.F) { fuzzDecompress(f, wire.EncodingGzip) }

func BenchmarkCompress(b *testing.B) {
	c, src := wire.NewCoder(mib), document(8<<10)
	for _, encoding := range encodings {
		b.Run(encoding, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(src)))
			var size int
			for b.Loop() {
				dst, _, err := c.Compress(encoding, src)
				if err != nil {
					b.Fatal(err)
				}
				size = len(dst)
			}
			b.ReportMetric(float64(size)/float64(len(src)), "ratio")
		})
	}
}

func BenchmarkDecompress(b *testing.B) {
	c, src := wire.NewCoder(mib), document(8<<10)
	for _, encoding := range encodings {
		dst := compress(b, c, encoding, src)
		b.Run(encoding, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				if _, err := c.Decompress(encoding, dst); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
