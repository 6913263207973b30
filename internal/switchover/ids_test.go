package switchover

import (
	"bytes"
	"fmt"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server/archive"

	"github.com/omnibus-go/bus/internal/dedup"
)

// snapshotOf returns a snapshot with n messages that have IDs.
func snapshotOf(tb testing.TB, n int) []byte {
	tb.Helper()
	var out bytes.Buffer
	compressed := s2.NewWriter(&out)
	w := archive.NewWriter(compressed)
	for i := range n {
		header := fmt.Appendf(nil, "NATS/1.0\r\nContent-Type: application/json\r\nNats-Msg-Id: an-id-of-the-usual-length-%d\r\n\r\n", i)
		body := make([]byte, 100)
		if err := w.WriteHeader(&archive.Header{Name: "s.a", HeaderSize: int64(len(header)), PayloadSize: int64(len(body)), Timestamp: time.Now().UnixNano(), Sequence: uint64(i + 1)}); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(append(header, body...)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := compressed.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// All IDs of a snapshot are read, also when it comes in small pieces. A snapshot that is cut
// short or damaged is an error, and no panic.
func TestReadIDs(t *testing.T) {
	t.Parallel()
	const n = 200
	snapshot := snapshotOf(t, n)
	read := func(data []byte) (int, error) {
		c := dedup.NewCollector(dedup.Max)
		err := readIDs(s2.NewReader(iotest.OneByteReader(bytes.NewReader(data))), c.Stream("S", "", time.Hour))
		ids, _ := c.Finish()
		return ids.Len(), err
	}
	if got, err := read(snapshot); got != n || err != nil {
		t.Errorf("%d of %d IDs: %v", got, n, err)
	}
	for cut := 20; cut < len(snapshot); cut += 97 {
		if got, err := read(snapshot[:cut]); err == nil {
			t.Errorf("%d of %d bytes: %d IDs and no error", cut, len(snapshot), got)
		}
		flipped := bytes.Clone(snapshot)
		flipped[cut] ^= 0x40
		if got, err := read(flipped); err == nil && got != n {
			t.Errorf("a changed byte %d: %d IDs and no error", cut, got)
		}
	}
}

// BenchmarkReadIDs reads a million IDs.
func BenchmarkReadIDs(b *testing.B) {
	snapshot := snapshotOf(b, 1_000_000)
	for b.Loop() {
		c := dedup.NewCollector(dedup.Max)
		if err := readIDs(s2.NewReader(bytes.NewReader(snapshot)), c.Stream("S", "", time.Hour)); err != nil {
			b.Fatal(err)
		}
	}
}
