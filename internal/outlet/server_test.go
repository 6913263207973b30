package outlet_test

import (
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/leakcheck"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// newServer starts a server without JetStream and without a port, which also
// runs in a bubble.
func newServer(t *testing.T, adjust ...func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{DontListen: true, NoSigs: true, NoLog: true}
	for _, f := range adjust {
		f(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

func dial(t *testing.T, s *server.Server) *link.Link {
	t.Helper()
	return dialBy(t, s.InProcessConn)
}

func dialBy(t *testing.T, inProcess func() (net.Conn, error)) *link.Link {
	t.Helper()
	l, err := link.Dial(t.Context(), link.Config{
		URL: link.EmbeddedURL, InProcess: inProcess, Timeout: 5 * time.Second,
		Disconnected: func(error) {}, Reconnected: func() {}, Closed: func() {}, Failed: func(string, error) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// sender is an outlet, its connection and its counters.
type sender struct {
	*outlet.Outlet
	link     *link.Link
	counters telemetry.Bus
}

func newSender(t *testing.T, s *server.Server) *sender {
	t.Helper()
	o := &sender{link: dial(t, s)}
	o.Outlet = outlet.New(o.link, nil, &o.counters)
	return o
}

func message(id string) *outlet.Message {
	m := &outlet.Message{Out: wire.Out{Subject: "stored", Data: []byte("x")}, ID: id}
	if id != "" {
		m.SetHeader(wire.HeaderNatsMsgID, id)
	}
	return m
}

// stream plays a stream: answer is called for the n-th message, from 1, and its
// result sent as the acknowledgement, unless it is empty.
func stream(t *testing.T, s *server.Server, answer func(n int, m *nats.Msg) string) {
	t.Helper()
	l := dial(t, s)
	n := 0
	_, err := l.Conn().Subscribe("stored", func(m *nats.Msg) {
		n++
		if text := answer(n, m); text != "" {
			if err := l.Publish(&wire.Out{Subject: m.Reply, Data: []byte(text)}); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
}
