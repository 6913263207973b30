package testserver

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/ats"
)

// readyTimeout is how long a test waits until its server accepts connections.
const readyTimeout = 10 * time.Second

// Server is a NATS server in the process of its test. Safe for concurrent use, except
// that Stop and Restart belong to the goroutine of the test.
type Server struct {
	t       testing.TB
	opts    *server.Options
	mu      sync.Mutex
	current *server.Server
}

// Option changes the options of a server before it starts.
type Option = func(*server.Options)

// WithPort makes the server listen on a free port of 127.0.0.1.
func WithPort(o *server.Options) { o.DontListen = false }

// WithJetStream turns JetStream on. Its directory is o.StoreDir, or a temporary one of
// the test if that is empty.
func WithJetStream(o *server.Options) { o.JetStream = true }

// New starts a server, which stops when the test ends.
func New(t testing.TB, opts ...Option) *Server {
	t.Helper()
	o := &server.Options{DontListen: true, Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true}
	for _, set := range opts {
		set(o)
	}
	if o.JetStream && o.StoreDir == "" {
		o.StoreDir = t.TempDir()
	}
	s := &Server{t: t, opts: o}
	s.start()
	t.Cleanup(s.Stop)
	return s
}

// start starts a server with the options and waits until it accepts connections. A
// random port becomes the port of later starts.
func (s *Server) start() {
	s.t.Helper()
	running, err := server.NewServer(s.opts.Clone())
	if err != nil {
		s.t.Fatalf("testserver: %v", err)
	}
	running.Start()
	s.mu.Lock()
	s.current = running
	s.mu.Unlock()
	if !running.ReadyForConnections(readyTimeout) {
		s.Stop()
		s.t.Fatal("testserver: the server is not ready")
	}
	if addr, ok := running.Addr().(*net.TCPAddr); ok && !s.opts.DontListen {
		s.opts.Port = addr.Port
	}
}

// Stop stops the server and waits until it has stopped. A second call does nothing.
func (s *Server) Stop() {
	running := s.NATS()
	running.Shutdown()
	running.WaitForShutdown()
}

// Restart stops the server and starts it again with the same options, directory and
// port. NATS returns the new one, and InProcessConn dials it.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.start()
}

// NATS returns the server as nats-server knows it. After Restart it is another one.
func (s *Server) NATS() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Bubble calls f in a testing/synctest bubble in which servers with JetStream run. Call
// t.Parallel before it.
func Bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	ats.Register()
	defer ats.Unregister()
	synctest.Test(t, f)
}
