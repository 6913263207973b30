package bus_test

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// splitAddr splits host:port into what the server's options want.
func splitAddr(t testing.TB, addr string) (string, int) {
	t.Helper()
	host, text, err := net.SplitHostPort(addr)
	must(t, err)
	port, err := strconv.Atoi(text)
	must(t, err)
	return host, port
}

// Of several ports the error names the one that is taken.
func TestListenErrorNamesThePort(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(o *server.Options, host string, port int){
		"clients":    func(o *server.Options, host string, port int) { o.DontListen, o.Host, o.Port = false, host, port },
		"leaf nodes": func(o *server.Options, host string, port int) { o.LeafNode.Host, o.LeafNode.Port = host, port },
		"monitoring": func(o *server.Options, host string, port int) { o.HTTPHost, o.HTTPPort = host, port },
		"websocket": func(o *server.Options, host string, port int) {
			o.Websocket.Host, o.Websocket.Port, o.Websocket.NoTLS = host, port, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := taken(t)
			_, err := quietBus(anyPort(), bus.WithStoreDir(t.TempDir()), bus.WithServerOptions(func(o *server.Options) {
				host, port := splitAddr(t, addr)
				set(o, host, port)
			}))
			if e := asError[*bus.StartError](t, err, "cannot listen on", "use"); e.Addr != addr {
				t.Errorf("the error names %s, want %s", e.Addr, addr)
			}
		})
	}
}

// A function of WithServerOptions that panics leaves the directory free.
func TestServerOptionsThatPanic(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	func() {
		defer func() {
			if v := recover(); v != "no" {
				t.Errorf("the panic is %v", v)
			}
		}()
		b, err := quietBus(bus.WithStoreDir(dir), bus.WithServerOptions(func(*server.Options) { panic("no") }))
		t.Errorf("New returned %v, %v", b, err)
	}()
	must(t, openOn(t, dir).Close())
}

// starter is told of the server when it starts.
type starter struct {
	server.MemAccResolver
	started atomic.Pointer[server.Server]
}

func (s *starter) Start(srv *server.Server) error {
	s.started.Store(srv)
	return nil
}

// What the server says when it gives up while it runs is in the log.
func TestFatalLinesAreLogged(t *testing.T) {
	t.Parallel()
	log, logged := logTo(hclog.Error)
	var s starter
	bustest.New(t, log, bus.WithServerOptions(func(o *server.Options) { o.AccountResolver = &s }))
	s.started.Load().Fatalf("the disk is %s", "gone")
	for _, l := range logged(t) {
		if l.message == "the disk is gone" {
			return
		}
	}
	t.Errorf("the log is %+v", logged(t))
}

// The bus does not lose its own server by asking it for many large messages.
func TestManyLargeMessagesAtOnce(t *testing.T) {
	t.Parallel()
	const count, size = 70, 1_000_000 // more than the server lets wait by default
	b := bustest.New(t, bus.WithMaxMemory(2*count*size))
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	for range count {
		must(t, second(bus.PublishTo(t.Context(), st, "S", make([]byte, size))))
	}
	_, err := b.JetStream().CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
	must(t, err)
	got := make(chan int, count)
	inbox := b.Conn().NewInbox()
	must(t, second(b.Conn().Subscribe(inbox, func(m *nats.Msg) { got <- len(m.Data) })))
	must(t, b.Conn().PublishRequest("$JS.API.CONSUMER.MSG.NEXT.S.c", inbox, []byte(`{"batch":70,"expires":60000000000}`)))
	for n := range count {
		if v := receive(t, got); v != size {
			t.Fatalf("message %d has %d bytes", n, v)
		}
	}
	if s := b.Stats(); s.Disconnects != 0 {
		t.Errorf("the connection was lost: %+v", s)
	}
}

// Streams are found whatever the directory is called.
func TestUnmovedWithSpecialNames(t *testing.T) {
	t.Parallel()
	other := bustest.New(t, anyPort())
	for _, name := range []string{"plain", "data[1]", "bad[", "a*b?", `back\slash`} {
		t.Run(name, func(t *testing.T) {
			if strings.ContainsAny(name, `*?\`) && filepath.Separator == '\\' {
				return // Windows has no such names
			}
			dir := filepath.Join(t.TempDir(), name)
			b := openOn(t, dir)
			declare(t, b, bus.StreamConfig{Name: "S"})
			must(t, b.Close())
			_, err := quietBus(bus.WithStoreDir(dir), bus.WithURL(other.ClientURL()))
			if e := asError[*bus.StoreError](t, err, "S"); e.Problem != bus.StoreUnmoved {
				t.Errorf("got %+v", e)
			}
		})
	}
}
