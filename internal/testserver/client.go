package testserver

import (
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
)

// connectTimeout limits one connection attempt of a link.
const connectTimeout = 5 * time.Second

// InProcessConn dials the server without a network. It implements
// nats.InProcessConnProvider.
func (s *Server) InProcessConn() (net.Conn, error) { return s.NATS().InProcessConn() }

// DialTCP dials the port of the server.
func (s *Server) DialTCP() (net.Conn, error) { return net.Dial("tcp", s.NATS().Addr().String()) }

// ClientURL returns the URL of the port.
func (s *Server) ClientURL() string { return s.NATS().ClientURL() }

// Conn returns a plain client that is connected without a network. It is closed when
// the test ends.
func (s *Server) Conn(t testing.TB) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Link returns a link that is connected without a network. It is closed when the test
// ends.
func (s *Server) Link(t testing.TB) *link.Link {
	t.Helper()
	return Dial(t, s.InProcessConn)
}

// Dial returns a link over the connections that dial returns, which may lead anywhere.
// The link reports nothing and takes it that it may do everything. It is closed when the test ends.
func Dial(t testing.TB, dial func() (net.Conn, error)) *link.Link {
	t.Helper()
	l, err := link.Dial(t.Context(), link.Config{
		URL: link.EmbeddedURL, InProcess: dial, Trusted: true, Timeout: connectTimeout,
		Disconnected: func(error) {}, Reconnected: func() {}, Closed: func() {}, Failed: func(string, error) {},
	})
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	t.Cleanup(l.Close)
	return l
}
