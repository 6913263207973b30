package link_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/link"
)

// way is a connection that reads ahead, and the server's end of it.
type way struct {
	t      *testing.T
	server net.Conn
	client net.Conn
}

// newWay returns a way whose handshake is over.
func newWay(t *testing.T) *way {
	t.Helper()
	server, client := net.Pipe()
	w := &way{t, server, link.ReadAhead(client)}
	if err := w.client.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.client.Close()
		_ = w.server.Close()
	})
	return w
}

// write writes a piece, in a bubble, and returns where its error will be.
func (w *way) write(size int) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := w.server.Write(make([]byte, size))
		done <- err
	}()
	synctest.Wait()
	return done
}

// answered writes full pieces, each of which Read waits for.
func (w *way) answered(pieces int) {
	w.t.Helper()
	for range pieces {
		read := make(chan int)
		go func() {
			n, _ := w.client.Read(make([]byte, 1<<10))
			read <- n
		}()
		synctest.Wait()
		written := w.write(512)
		if n, err := <-read, <-written; n != 512 || err != nil {
			w.t.Fatalf("read %d: %v", n, err)
		}
	}
}

// takes reports whether a piece that nobody reads can be written. If not, it reads it.
func (w *way) takes(size int) bool {
	w.t.Helper()
	written := w.write(size)
	ahead := len(written) == 1
	if n, err := io.ReadFull(w.client, make([]byte, size)); n != size {
		w.t.Fatalf("read %d: %v", n, err)
	}
	if err := <-written; err != nil {
		w.t.Fatal(err)
	}
	return ahead
}

// What is read is what was written, whatever the pieces.
func TestReadAheadChangesNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		w := newWay(t)
		random := rand.New(rand.NewPCG(seed, 1))
		sent := make([]byte, 1<<18)
		for i := range sent {
			sent[i] = byte(random.Uint32())
		}
		go func() {
			for rest := sent; len(rest) > 0; {
				size := 512
				if random.IntN(20) == 0 {
					size = []int{1, 511, 4096, 40_000}[random.IntN(4)]
				}
				size = min(size, len(rest))
				if _, err := w.server.Write(rest[:size]); err != nil {
					t.Error(err)
				}
				rest = rest[size:]
			}
			_ = w.server.Close()
		}()
		got, buf := []byte(nil), make([]byte, 1+rand.IntN(40_000))
		for {
			n, err := w.client.Read(buf)
			got = append(got, buf[:n]...)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Error(err)
				}
				break
			}
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("seed %d, reading up to %d: got %d other bytes, want %d", seed, len(buf), len(got), len(sent))
		}
	}
}

// Reading ahead begins after four full pieces, and ends when it is of no use. Then it
// takes more of them to begin.
func TestReadAheadSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWay(t)
		w.answered(3)
		if w.takes(100) {
			t.Error("read ahead after three full pieces")
		}
		w.answered(4)
		if !w.takes(100) {
			t.Error("did not read ahead after four full pieces")
		}
		w.answered(7) // the eighth that found nothing before it
		if w.takes(100) {
			t.Error("read ahead where Read had waited for each of eight pieces")
		}
		w.answered(4)
		if w.takes(100) {
			t.Error("read ahead again as early as the first time")
		}
		w.answered(8)
		if !w.takes(512) {
			t.Error("did not read ahead again")
		}
		first, second := w.write(512), w.write(512) // with the first still there
		if len(first) != 1 || len(second) != 1 {
			t.Error("did not read ahead twice")
		}
		_, _ = io.ReadFull(w.client, make([]byte, 1024))
		w.answered(8)
		w.answered(4)
		if !w.takes(512) {
			t.Error("did not begin early after a session that was of use")
		}
	})
}

// Large pieces are worth waiting for.
func TestReadAheadLeavesLargePieces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWay(t)
		for range 20 {
			if w.takes(64 << 10) {
				t.Fatal("read ahead")
			}
		}
	})
}

// The handshake has deadlines, which hold for Read itself.
func TestReadAheadWaitsForTheHandshake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWay(t)
		if err := w.client.SetDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		w.answered(10)
		if w.takes(512) {
			t.Error("read ahead")
		}
		_, err := w.client.Read(make([]byte, 1))
		if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
			t.Errorf("after the deadline: %v", err)
		}
	})
}

// What was read ahead is read before the end of the connection; but not after Close.
func TestReadAheadAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWay(t)
		w.answered(4)
		w.write(100)
		_ = w.server.Close()
		synctest.Wait()
		buf := make([]byte, 1<<10)
		if n, err := w.client.Read(buf); n != 100 || err != nil {
			t.Errorf("read %d: %v", n, err)
		}
		for range 2 {
			if n, err := w.client.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("read %d: %v", n, err)
			}
		}

		w = newWay(t)
		w.answered(4)
		w.write(100)
		_ = w.client.Close()
		if n, err := w.client.Read(buf); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("after Close read %d: %v", n, err)
		}
	})
}

// Close ends whoever waits: the server that finds no room, and Read that finds nothing.
func TestReadAheadIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWay(t)
		w.answered(4)
		if written := w.write(32 << 10); len(written) != 1 {
			t.Error("there is less room than 32 KiB")
		}
		written := w.write(1)
		if len(written) != 0 {
			t.Error("there is more room than 32 KiB")
		}
		_ = w.client.Close()
		if err := <-written; err == nil {
			t.Error("wrote after Close")
		}

		w = newWay(t)
		w.answered(4)
		read := make(chan error)
		go func() {
			_, err := w.client.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		_ = w.client.Close()
		if err := <-read; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("got %v", err)
		}
	})
}
