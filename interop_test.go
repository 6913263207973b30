package bus_test

import (
	"bufio"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeServer speaks just enough of the NATS protocol for one client to connect,
// and then only does what a test tells it: that is how answers get lost.
type fakeServer struct {
	t        *testing.T
	listener net.Listener
	lines    chan string

	mu     sync.Mutex
	conn   net.Conn
	answer bool // PING with PONG
}

// newFakeServer returns a server that lets clients connect. Once a client is
// connected, nothing is answered.
func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &fakeServer{t: t, listener: l, lines: make(chan string, 1024)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.serve()
	}()
	t.Cleanup(func() {
		_ = l.Close()
		s.cut()
		<-ended
	})
	return s
}

func (s *fakeServer) url() string { return "nats://" + s.listener.Addr().String() }

// serve serves one client after another.
func (s *fakeServer) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conn = conn
		s.mu.Unlock()
		s.send(`INFO {"server_id":"F","server_name":"fake","version":"2.10.0","proto":1,"headers":true,"max_payload":1048576}` + "\r\n")
		in := bufio.NewScanner(conn)
		in.Buffer(nil, 4<<20)
		for connected := false; in.Scan(); {
			line := strings.TrimSuffix(in.Text(), "\r")
			s.mu.Lock()
			answer := s.answer
			s.mu.Unlock()
			if line == "PING" && (!connected || answer) {
				connected = true
				s.send("PONG\r\n")
				continue
			}
			select {
			case s.lines <- line:
			default: // nobody reads it
			}
		}
	}
}

// send writes to the client.
func (s *fakeServer) send(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_, _ = s.conn.Write([]byte(text)) // the client may have gone
	}
}

// cut closes the connection.
func (s *fakeServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close()
	}
}

// answerPings has all pings answered, an earlier one included.
func (s *fakeServer) answerPings() {
	s.mu.Lock()
	s.answer = true
	s.mu.Unlock()
	s.send("PONG\r\n")
}

// ignorePings has no more pings answered.
func (s *fakeServer) ignorePings() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = false
}

// line returns the next line of the client.
func (s *fakeServer) line() string {
	s.t.Helper()
	return receive(s.t, s.lines)
}

// expect reads lines until one contains text, and returns it.
func (s *fakeServer) expect(text string) string {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case line := <-s.lines:
			if strings.Contains(line, text) {
				return line
			}
		case <-deadline:
			s.t.Fatalf("the client did not send %q", text)
		}
	}
}
