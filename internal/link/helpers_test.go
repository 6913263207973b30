package link_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
)

// testTimeout is how long a test waits for what should come at once.
const testTimeout = 10 * time.Second

func flush(t *testing.T, nc *nats.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	if err := nc.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
}

// failure is one call of Config.Failed.
type failure struct {
	subject string
	err     error
}

// told is what a link told its owner.
type told struct {
	disconnected chan error
	reconnected  chan int // the payload limit as seen then
	closed       chan struct{}
	failed       chan failure
}

// config returns a configuration for a link that dials in this process, and what
// the link will tell.
func config(l **link.Link, dial func() (net.Conn, error)) (link.Config, *told) {
	to := &told{make(chan error, 100), make(chan int, 100), make(chan struct{}, 100), make(chan failure, 100)}
	return link.Config{
		URL: link.EmbeddedURL, Name: "test", InProcess: dial, Timeout: 5 * time.Second,
		Disconnected: func(err error) { to.disconnected <- err },
		Reconnected:  func() { to.reconnected <- (*l).MaxPayload() },
		Closed:       func() { to.closed <- struct{}{} },
		Failed:       func(subject string, err error) { to.failed <- failure{subject, err} },
	}, to
}

// open dials; the link is closed with the test.
func open(t *testing.T, dial func() (net.Conn, error), adjust ...func(*link.Config)) (*link.Link, *told) {
	t.Helper()
	var l *link.Link
	c, to := config(&l, dial)
	for _, f := range adjust {
		f(&c)
	}
	var err error
	if l, err = link.Dial(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, to
}

// next returns what comes out of ch. In a bubble the testTimeout costs no time.
func next[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(testTimeout):
		t.Fatalf("%s did not come", what)
		panic("not reached")
	}
}

// none fails the test if something waits in ch.
func none[T any](t *testing.T, ch <-chan T, what string) {
	t.Helper()
	select {
	case v := <-ch:
		t.Errorf("%s came: %v", what, v)
	default:
	}
}

// route is where a link dials to, which a test may change.
type route struct {
	mu   sync.Mutex
	dial func() (net.Conn, error)
}

func (r *route) to(dial func() (net.Conn, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dial = dial
}

func (r *route) Dial() (net.Conn, error) {
	r.mu.Lock()
	dial := r.dial
	r.mu.Unlock()
	return dial()
}

var errNowhere = errors.New("nobody there")

func nowhere() (net.Conn, error) { return nil, errNowhere }

// peer is the other end of a connection, which says only what a test has it say.
// It needs no network, so it works in a bubble.
type peer struct {
	net.Conn
	lines  chan string   // what the client sent, PING excepted
	pings  chan struct{} // its pings
	answer chan struct{} // closed: they are answered
}

// newPeer returns one that lets its client in, and how to reach it.
func newPeer(t *testing.T) (*peer, func() (net.Conn, error)) {
	t.Helper()
	ours, theirs := net.Pipe()
	p := &peer{ours, make(chan string, 100), make(chan struct{}, 100), make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.serve()
	}()
	t.Cleanup(func() {
		_ = ours.Close()
		<-ended
	})
	return p, func() (net.Conn, error) { return theirs, nil }
}

func (p *peer) serve() {
	p.say(`INFO {"server_id":"P","server_name":"peer","proto":1,"headers":true,"max_payload":1000}` + "\r\n")
	for in := bufio.NewScanner(p); in.Scan(); {
		line := strings.TrimSuffix(in.Text(), "\r")
		if line != "PING" {
			p.lines <- line
			if strings.HasPrefix(line, "CONNECT ") && in.Scan() {
				p.say("PONG\r\n")
			}
			continue
		}
		p.pings <- struct{}{}
		select {
		case <-p.answer:
			p.say("PONG\r\n")
		default:
		}
	}
}

func (p *peer) say(text string) { _, _ = p.Write([]byte(text)) } // the client may have gone
