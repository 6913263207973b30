package intake_test

import (
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus/internal/leakcheck"
	"github.com/omnibus-go/bus/internal/link"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// newServer starts a server without JetStream and without a port, which also
// runs in a bubble.
func newServer(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
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
	return dialWith(t, s.InProcessConn)
}

func dialWith(t *testing.T, dial func() (net.Conn, error)) *link.Link {
	t.Helper()
	l, err := link.Dial(t.Context(), link.Config{
		URL: link.EmbeddedURL, InProcess: dial, Timeout: 5 * time.Second,
		Disconnected: func(error) {}, Reconnected: func() {}, Closed: func() {}, Failed: func(string, error) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}
