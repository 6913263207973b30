package link_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// slowly has nc answer requests to subject when release is closed. It sends each request to
// arrived first.
func slowly(t *testing.T, nc *nats.Conn, subject string, release <-chan struct{}) (arrived chan *nats.Msg) {
	t.Helper()
	arrived = make(chan *nats.Msg, 1000)
	if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
		arrived <- m
		go func() {
			<-release
			_ = nc.Publish(m.Reply, m.Data)
		}()
	}); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	return arrived
}

// asks sends requests and returns where their errors come. Each must get its own reply.
func asks(ctx context.Context, l *link.Link, subject string, n int) <-chan error {
	results := make(chan error, n)
	for i := range n {
		go func() {
			text := strconv.Itoa(i)
			m, err := l.Request(ctx, &wire.Out{Subject: subject, Data: []byte(text)})
			if err == nil && string(m.Data) != text {
				err = errors.New("request " + text + " got the reply " + string(m.Data))
			}
			results <- err
		}()
	}
	return results
}

// Requests that are under way when the connection is cut get their replies when it is back, at
// another server. The responder may have replied while it was cut. Requests to the server
// itself end.
func TestRequestsAcrossACut(t *testing.T) {
	t.Parallel()
	a, b := testserver.New(t, testserver.WithPort), testserver.New(t, testserver.WithPort)
	l, _ := open(t, a.InProcessConn)
	early, late := make(chan struct{}), make(chan struct{})
	arrived := slowly(t, l.Conn(), "early", early)
	arrivedLate := slowly(t, l.Conn(), "late", late)
	silent := make(chan struct{})
	defer close(silent)
	asked := slowly(t, l.Conn(), "$JS.API.INFO", silent)
	const n = 200
	first, second := asks(t.Context(), l, "early", n), asks(t.Context(), l, "late", n)
	server := asks(t.Context(), l, "$JS.API.INFO", 1)
	for range n {
		next(t, arrived, "a request")
		next(t, arrivedLate, "a request")
	}
	next(t, asked, "the request to the server")
	if err := l.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := next(t, server, "the end of the request to the server"); !errors.Is(err, nats.ErrDisconnected) {
		t.Errorf("the request to the server: %v", err)
	}
	close(early)
	if err := l.Lead(t.Context(), overPort(b)); err != nil {
		t.Fatal(err)
	}
	close(late)
	for range n {
		if err := errors.Join(next(t, first, "a reply"), next(t, second, "a late reply")); err != nil {
			t.Fatal(err)
		}
	}
}

// A lost connection does not end a request: the reply comes if the responder sends it later.
func TestRequestsAcrossALostConnection(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	l, to := open(t, s.InProcessConn)
	release := make(chan struct{})
	arrived := slowly(t, l.Conn(), "ask", release)
	results := asks(t.Context(), l, "ask", 1)
	next(t, arrived, "the request")
	s.Restart()
	next(t, to.disconnected, "the loss of the connection")
	next(t, to.reconnected, "the connection")
	close(release)
	if err := next(t, results, "the reply"); err != nil {
		t.Errorf("got %v", err)
	}
}

// A program that has its connection come back anew loses the replies, and gets to know it.
func TestRequestsAcrossAForcedReconnect(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	l, to := open(t, s.InProcessConn)
	silent := make(chan struct{})
	defer close(silent)
	arrived := slowly(t, l.Conn(), "ask", silent)
	results := asks(t.Context(), l, "ask", 3)
	for range 3 {
		next(t, arrived, "a request")
	}
	reconnect(t, l, to)
	for range 3 {
		if err := next(t, results, "the end of a request"); !errors.Is(err, nats.ErrDisconnected) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := l.Request(t.Context(), &wire.Out{Subject: "nobody"}); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("the next request: %v", err)
	}
}

// A request ends with its context and with the connection. Its late reply, and a second one,
// are for nobody.
func TestRequestsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		l, to := open(t, s.InProcessConn)
		release := make(chan struct{})
		arrived := slowly(t, s.Conn(t), "ask", release)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.Request(ended, &wire.Out{Subject: "ask"}); !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
		none(t, arrived, "a request with an ended context")
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout/2)
		defer cancel()
		began := time.Now()
		results := asks(ctx, l, "ask", 3)
		for range 3 {
			if err := next(t, results, "the end of a request"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != testTimeout/2 {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		}
		close(release) // three replies come too late
		nc := s.Conn(t)
		twice := func(m *nats.Msg) {
			for range 2 {
				_ = nc.Publish(m.Reply, m.Data)
				_ = nc.Publish(m.Reply+".x", nil)
			}
		}
		if _, err := nc.Subscribe("twice", twice); err != nil {
			t.Fatal(err)
		}
		flush(t, nc)
		for range 10 {
			if err := next(t, asks(t.Context(), l, "twice", 1), "a reply"); err != nil {
				t.Error(err)
			}
		}
		silent := make(chan struct{})
		defer close(silent)
		slowly(t, nc, "silent", silent)
		results = asks(t.Context(), l, "silent", 3)
		synctest.Wait()
		l.Close()
		for range 3 {
			if err := next(t, results, "the end of a request"); !errors.Is(err, nats.ErrConnectionClosed) {
				t.Errorf("got %v", err)
			}
		}
		if _, err := l.Request(t.Context(), &wire.Out{Subject: "ask"}); !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("after the end: %v", err)
		}
		next(t, to.closed, "the end")
		none(t, to.failed, "a failure")
	})
}

// Requests, contexts that end and a connection that is closed under them do not harm each
// other. The program closes it, not the link.
func TestRequestsUnderLoad(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	l, _ := open(t, s.InProcessConn)
	nc := s.Conn(t)
	if _, err := nc.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n%20)*20*time.Microsecond)
				if n%4 == 0 {
					ctx = t.Context()
				}
				text := strconv.Itoa(i*1e6 + n)
				m, err := l.Request(ctx, &wire.Out{Subject: "echo", Data: []byte(text)})
				cancel()
				switch {
				case errors.Is(err, nats.ErrConnectionClosed):
					return
				case err == nil && string(m.Data) != text:
					t.Errorf("request %s got the reply %s", text, m.Data)
				case err != nil && !errors.Is(err, context.DeadlineExceeded):
					t.Errorf("request %s: %v", text, err)
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	l.Conn().Close()
	wg.Wait()
}

// A request allocates the channel of its reply (two) and its reply subject, as one of nats.go does.
func TestRequestAllocations(t *testing.T) { //nolint:paralleltest // it counts
	l := testserver.New(t).Link(t)
	allocations := testing.AllocsPerRun(1000, func() {
		if err := l.BeginRequest(); err != nil {
			t.Error(err)
		}
	})
	if allocations > 3 {
		t.Errorf("%v allocations, want 3", allocations)
	}
}
