package reader_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus/internal/leakcheck"
	"github.com/omnibus-go/bus/internal/link"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// dial returns a link to a server without JetStream, so that the test can answer in
// its place.
func dial(t *testing.T) *link.Link {
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
	l, err := link.Dial(t.Context(), link.Config{
		URL: link.EmbeddedURL, InProcess: s.InProcessConn, Timeout: 5 * time.Second,
		Disconnected: func(error) {}, Reconnected: func() {}, Closed: func() {}, Failed: func(string, error) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}
