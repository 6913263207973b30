// Package bench compares the library with plain nats.go and nats-server in the same run. It is a
// module of its own, so that its dependencies do not reach users.
package bench

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
)

// rawServer starts a plain server with the configuration of a bus, except the JetStream domain, which
// would cost the server a quarter of its core throughput. If dir is empty, streams are in memory.
func rawServer(tb testing.TB, dir string) *server.Server {
	tb.Helper()
	if dir == "" {
		dir = tb.TempDir()
	}
	s := startServer(tb, dir)
	tb.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

func startServer(tb testing.TB, dir string) *server.Server {
	tb.Helper()
	s, err := server.NewServer(&server.Options{
		ServerName: "raw", DontListen: true, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, JetStreamMaxMemory: 1 << 30, JetStreamMaxStore: 8 << 30, SyncInterval: time.Minute,
	})
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		tb.Fatal("the raw server is not ready")
	}
	return s
}

// raw returns a nats.go connection to a new plain server.
func raw(tb testing.TB, dir string) *nats.Conn {
	tb.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(rawServer(tb, dir)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

// omnibus returns a bus. If dir is not empty it is on disk, with the sync policy of raw.
func omnibus(tb testing.TB, dir string) *bus.Bus {
	tb.Helper()
	b, err := bus.New(bus.WithLogger(hclog.NewNullLogger()), bus.WithStoreDir(dir), bus.WithSync(bus.SyncEvery(time.Minute)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	return b
}

func rawStream(tb testing.TB, nc *nats.Conn, storage jetstream.StorageType) jetstream.JetStream {
	tb.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Storage: storage, AllowDirect: true})
	if err != nil {
		tb.Fatal(err)
	}
	return js
}

func busStream(tb testing.TB, b *bus.Bus) *bus.Stream {
	tb.Helper()
	st, err := b.Stream(context.Background(), bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err != nil {
		tb.Fatal(err)
	}
	return st
}
