package dedup_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/dedup"
)

// header returns a header as a server stores it.
func header(id string) []byte {
	return fmt.Appendf(nil, "NATS/1.0\r\nContent-Type: x\r\nNats-Msg-Id: %s\r\n\r\n", id)
}

// An ID is found with the sequence of the last message that has it, until the window of its
// stream is over. Other streams, messages without an ID, and those that were stored before the
// window, are not.
func TestFind(t *testing.T) {
	t.Parallel()
	now := time.Now()
	at := func(ago time.Duration) int64 { return now.Add(-ago).UnixNano() }
	c := dedup.NewCollector(100)
	s := c.Stream("S", "inc", time.Minute)
	s.Add(header("a"), 1, at(50*time.Second))
	s.Add(header("a"), 7, at(10*time.Second))
	s.Add(header("b"), 2, at(59*time.Second))
	s.Add(header("old"), 3, at(2*time.Minute))
	s.Add(nil, 4, at(0))
	s.Add([]byte("NATS/1.0\r\nNats-Msg-Identity: x\r\nX: Nats-Msg-Id: y\r\n\r\n"), 5, at(0))
	s.Add([]byte("NATS/1.0\r\nNats-Msg-Id:tight\r\n\r\n"), 6, at(0))
	s.Add([]byte("NATS/1.0\r\nNats-Msg-Id: cut"), 8, at(0))
	c.Stream("EMPTY", "inc", time.Minute)
	ids, dropped := c.Finish()
	if !dropped.IsZero() || ids.Len() != 3 || !ids.Until().Equal(time.Unix(0, at(0)).Add(time.Minute)) {
		t.Fatalf("dropped %v, %d IDs until %v", dropped, ids.Len(), ids.Until())
	}
	again, err := dedup.Decode(ids.Encode("m"), "m")
	if err != nil {
		t.Fatal(err)
	}
	for _, ids := range []*dedup.IDs{ids, again} {
		for _, want := range []struct {
			stream, id string
			after      time.Duration
			sequence   uint64
		}{
			{"S", "a", 0, 7}, {"S", "a", 49 * time.Second, 7}, {"S", "a", 50 * time.Second, 0}, {"S", "b", 0, 2},
			{"S", "b", time.Second, 0}, {"S", "old", 0, 0}, {"S", "tight", 0, 6}, {"S", "y", 0, 0}, {"S", "cut", 0, 0}, {"S", "", 0, 0},
			{"EMPTY", "a", 0, 0}, {"T", "a", 0, 0},
		} {
			k, ok := ids.Find(want.stream, want.id, now.Add(want.after))
			if ok != (want.sequence > 0) || k.Sequence != want.sequence || ok && k.Incarnation != "inc" {
				t.Errorf("%s %q after %v: %v, %v", want.stream, want.id, want.after, k, ok)
			}
		}
	}
}

// A stream whose copy begins again begins empty.
func TestStreamBeginsAgain(t *testing.T) {
	t.Parallel()
	c := dedup.NewCollector(2)
	for range 5 {
		s := c.Stream("S", "inc", time.Minute)
		s.Add(header("a"), 1, time.Now().UnixNano())
		s.Add(header("b"), 2, time.Now().UnixNano())
	}
	if ids, dropped := c.Finish(); ids.Len() != 2 || !dropped.IsZero() {
		t.Errorf("%d IDs, dropped %v", ids.Len(), dropped)
	}
}

// There are never more IDs than the limit. Those that were stored last are kept, and Finish
// says what is missing, also when all have the same time.
func TestLimit(t *testing.T) {
	t.Parallel()
	c := dedup.NewCollector(100)
	a, b := c.Stream("A", "inc", time.Minute), c.Stream("B", "inc", time.Hour)
	begin := time.Now().Add(-30 * time.Second)
	for i := range 1000 {
		at := begin.Add(time.Duration(i) * time.Millisecond).UnixNano()
		a.Add(header(fmt.Sprint(i)), uint64(i+1), at)
		b.Add(header(fmt.Sprint(i)), uint64(i+1), at)
	}
	b.Add(header("late, and stored early"), 9999, begin.UnixNano())
	ids, dropped := c.Finish()
	if ids.Len() > 100 || ids.Len() < 50 || dropped.IsZero() {
		t.Fatalf("%d IDs, dropped before %v", ids.Len(), dropped)
	}
	for i := range 1000 {
		_, inA := ids.Find("A", fmt.Sprint(i), time.Now())
		_, inB := ids.Find("B", fmt.Sprint(i), time.Now())
		if kept := !begin.Add(time.Duration(i) * time.Millisecond).Before(dropped); inA != kept || inB != kept {
			t.Fatalf("%d: %v %v, kept %v", i, inA, inB, kept)
		}
	}
	same := dedup.NewCollector(10)
	s := same.Stream("S", "inc", time.Minute)
	for i := range 25 {
		s.Add(header(fmt.Sprint(i)), uint64(i+1), begin.UnixNano())
	}
	if ids, dropped := same.Finish(); ids.Len() > 10 || dropped.IsZero() {
		t.Errorf("%d IDs, dropped %v", ids.Len(), dropped)
	}
}

// What is not the complete file of this move is an error, and no panic.
func TestDecodeDamaged(t *testing.T) {
	t.Parallel()
	c := dedup.NewCollector(10)
	s := c.Stream("S", "inc", time.Minute)
	s.Add(header("a"), 1, time.Now().UnixNano())
	ids, _ := c.Finish()
	data := ids.Encode("m")
	if _, err := dedup.Decode(data, "other"); err != dedup.ErrOtherMove {
		t.Errorf("another move: %v", err)
	}
	for n := range data {
		if _, err := dedup.Decode(data[:n], "m"); err == nil {
			t.Errorf("%d of %d bytes are accepted", n, len(data))
		}
		flipped := bytes.Clone(data)
		flipped[n] ^= 1
		if _, err := dedup.Decode(flipped, "m"); err == nil {
			t.Errorf("a changed byte %d is accepted", n)
		}
	}
}

// IDs take no more memory than documented.
func TestMemory(t *testing.T) {
	const n = 250_000
	before := heap()
	c := dedup.NewCollector(dedup.Max)
	s := c.Stream("S", "inc", time.Minute)
	at := time.Now().UnixNano()
	for i := range n {
		s.Add(header(fmt.Sprintf("an-id-of-the-usual-length-%010d", i)), uint64(i+1), at)
	}
	ids, _ := c.Finish()
	if each := float64(heap()-before) / n; ids.Len() != n || each > 100 {
		t.Errorf("%d IDs take %.0f bytes each", ids.Len(), each)
	} else {
		t.Logf("%.0f bytes each", each)
	}
	runtime.KeepAlive(ids)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A file with a right checksum may hold anything.
func FuzzDecode(f *testing.F) {
	c := dedup.NewCollector(100)
	c.Stream("S", "inc", time.Minute).Add(header("a"), 1, time.Now().UnixNano())
	ids, _ := c.Finish()
	for _, data := range [][]byte{ids.Encode("m"), []byte("{}\n" + strings.Repeat("x", 32)), nil} {
		f.Add(data[:max(len(data)-sha256.Size, 0)])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		check := sha256.Sum256(body)
		ids, err := dedup.Decode(append(bytes.Clone(body), check[:]...), "m")
		if err != nil {
			return
		}
		ids.Find("S", "a", time.Now())
		again, err := dedup.Decode(ids.Encode("m"), "m")
		if err != nil || again.Len() != ids.Len() {
			t.Errorf("%d IDs came back as %d, %v", ids.Len(), again.Len(), err)
		}
	})
}
