package embedded

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A bus that is shut down while its streams come home stops the server twice.
func TestStopTwice(t *testing.T) {
	t.Parallel()
	s, _ := startLimited(t, t.TempDir())
	s.Watch(func(err error) { t.Errorf("lost: %v", err) })
	for range 2 {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}
}

// startLimited starts a server with a limit of 1 MiB for memory and disk, and returns a client
// with a stream in dir, or in memory.
func startLimited(t *testing.T, dir string) (*Server, jetstream.JetStream) {
	t.Helper()
	s, err := Start(&Config{StoreDir: dir, MaxMemory: 1 << 20, MaxStore: 1 << 20, MaxPayload: 2 << 20, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() }) // a lost directory is an error
	nc, err := nats.Connect("", nats.InProcessServer(s.server))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	storage := jetstream.FileStorage
	if dir == "" {
		storage = jetstream.MemoryStorage
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Storage: storage}); err != nil {
		t.Fatal(err)
	}
	return s, js
}

// The server of a lost directory accepts nothing more, also while and after a message is stored
// in the reserve.
func TestReserveOfALostStore(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s, js := startLimited(t, dir)
	lost := make(chan error, 1)
	s.Watch(func(err error) { lost <- err })
	refused := func(when string) {
		if _, err := js.Publish(t.Context(), "s.a", nil); err == nil {
			t.Error("a message was accepted", when)
		}
	}
	raise := func(during func()) {
		called := false
		err := s.InReserve(t.Context(), 10, false, func() error {
			called = true
			during()
			return nil
		})
		if err == nil != called || err != nil && !errors.Is(err, errClosed) {
			t.Errorf("called %v, got %v", called, err)
		}
	}
	raise(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		<-lost
		refused("during the raise in which the directory was lost")
	})
	refused("after the raise in which the directory was lost")
	raise(func() { refused("during a later raise") })
	refused("after a later raise")
}

// One half of the reserve is left to what makes room.
func TestHalfOfTheReserve(t *testing.T) {
	t.Parallel()
	s, js := startLimited(t, "")
	const size = 100_000
	fill := func(half bool) (bytes int64) {
		for range 1000 {
			err := s.InReserve(t.Context(), size, half, func() error {
				_, err := js.Publish(t.Context(), "s.a", make([]byte, size))
				return err
			})
			if err != nil {
				break
			}
		}
		return s.Usage()[0].Used
	}
	reserve := s.room.reserveOf(1 << 20)
	for _, tc := range []struct {
		half bool
		most int64
	}{{true, 1<<20 + reserve/2}, {false, 1<<20 + reserve}} {
		if used := fill(tc.half); used > tc.most || used < tc.most-2*size {
			t.Errorf("half %v: %d bytes are in use, want at most %d", tc.half, used, tc.most)
		}
	}
}

// A call that waits for others ends with its context.
func TestReserveIsTakenByOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &Server{room: &room{raise: make(chan struct{}, 1)}}
		s.room.raise <- struct{}{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := s.InReserve(ctx, 10, false, func() error { return errors.New("called") })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
