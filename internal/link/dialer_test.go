package link_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l := listen(t)
	addr := l.Addr().String()
	_ = l.Close()
	return addr
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestDialErrors(t *testing.T) {
	t.Parallel()
	guarded := testserver.New(t, testserver.WithPort, func(o *server.Options) { o.Authorization = "s3cret" })
	for _, tc := range []struct {
		name string
		url  string
		in   func() (net.Conn, error)
		want error
		text string
	}{
		{"nobody listens", "nats://" + closedPort(t), nil, nats.ErrNoServers, "refused"},
		{"nobody listens anywhere", "nats://" + closedPort(t) + ",nats://" + closedPort(t), nil, nats.ErrNoServers, ""},
		{"refused", guarded.ClientURL(), nil, nats.ErrAuthorization, ""},
		{"no server in this process", link.EmbeddedURL, nil, nil, "no server is embedded"},
		{"the server in this process does not answer", link.EmbeddedURL, nowhere, errNowhere, ""},
		{"no URL", "nats://%zz", nil, nil, "%zz"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var l *link.Link
			c, to := config(&l, tc.in)
			c.URL = tc.url
			l, err := link.Dial(t.Context(), c)
			if err == nil {
				l.Close()
				t.Fatal("it connected")
			}
			if tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v, want %v %s", err, tc.want, tc.text)
			}
			none(t, to.disconnected, "a loss of the connection")
			none(t, to.failed, "an asynchronous error")
		})
	}
}

// One of several servers is enough.
func TestDialTriesEachServer(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, testserver.WithPort)
	l, _ := open(t, nil, func(c *link.Config) {
		c.URL = "nats://" + closedPort(t) + "," + s.ClientURL() + ",nats://" + closedPort(t)
	})
	if err := l.Flush(t.Context(), testTimeout); err != nil {
		t.Fatal(err)
	}
	if got := l.Conn().ConnectedServerId(); got != s.NATS().ID() {
		t.Errorf("connected to %q, want %q", got, s.NATS().ID())
	}
}

// Dial ends with its context, whatever the server does, and closes what it
// opened.
func TestDialEndsWithItsContext(t *testing.T) {
	t.Parallel()
	reason := errors.New("changed my mind")
	t.Run("before", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p, dial := newPeer(t)
			var l *link.Link
			c, _ := config(&l, dial)
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(reason)
			if _, err := link.Dial(ctx, c); !errors.Is(err, reason) {
				t.Errorf("got %v, want %v", err, reason)
			}
			_ = p.Close()
		})
	})
	t.Run("while a server in this process says nothing", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			var l *link.Link
			c, _ := config(&l, func() (net.Conn, error) { return theirs, nil })
			c.Timeout = time.Hour
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, reason)
			defer cancel()
			began := time.Now()
			_, err := link.Dial(ctx, c)
			if took := time.Since(began); !errors.Is(err, reason) || took != time.Minute {
				t.Errorf("got %v after %v, want %v after a minute", err, took, reason)
			}
			if _, err := ours.Read(make([]byte, 1)); err == nil {
				t.Error("the connection is open")
			}
		})
	})
	t.Run("while a server says nothing", func(t *testing.T) {
		t.Parallel()
		mute := listen(t)
		var l *link.Link
		c, _ := config(&l, nil)
		c.URL, c.Timeout = "nats://"+mute.Addr().String(), time.Hour
		ctx, cancel := context.WithCancelCause(t.Context())
		result := make(chan error, 1)
		go func() { _, err := link.Dial(ctx, c); result <- err }()
		conn, err := mute.Accept()
		if err != nil {
			t.Fatal(err)
		}
		cancel(reason)
		if err := next(t, result, "the end of Dial"); !errors.Is(err, reason) {
			t.Errorf("got %v, want %v", err, reason)
		}
		if err := conn.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the connection is open: %v", err)
		}
	})
}

// One attempt takes no longer than its timeout, however long ctx may last.
func TestDialTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, ours) }() // it listens and says nothing
		var l *link.Link
		c, _ := config(&l, func() (net.Conn, error) { return theirs, nil })
		c.Timeout = 7 * time.Second
		began := time.Now()
		_, err := link.Dial(t.Context(), c)
		if took := time.Since(began); err == nil || took != c.Timeout {
			t.Errorf("got %v after %v, want an error after %v", err, took, c.Timeout)
		}
	})
}

// The context of Dial is for the first connect only: later it ends nothing.
func TestLinkOutlivesTheContextOfDial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		var l *link.Link
		c, to := config(&l, s.InProcessConn)
		ctx, cancel := context.WithCancel(t.Context())
		l, err := link.Dial(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		cancel()
		synctest.Wait()
		none(t, to.disconnected, "a loss of the connection")
		if err := l.Flush(t.Context(), time.Second); err != nil {
			t.Error(err)
		}
	})
}

// A peer that takes nothing ends a write and the connection; one that is slow
// does not, however long the whole takes.
func TestWriteToASlowPeer(t *testing.T) {
	t.Parallel()
	const stall, piece = 5 * time.Second, 64 << 10
	for _, tc := range []struct {
		name  string
		every time.Duration // a piece is read so often
		most  int           // pieces that are read
		took  time.Duration
		fails bool
	}{
		{"at once", 0, 8, 0, false},
		{"slowly", 4 * time.Second, 8, 32 * time.Second, false},
		{"too slowly", 6 * time.Second, 8, stall, true},
		{"no more", 4 * time.Second, 3, 12*time.Second + stall, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				var reader sync.WaitGroup
				defer reader.Wait()
				defer func() { _ = theirs.Close() }()
				reader.Go(func() {
					for range tc.most {
						time.Sleep(tc.every)
						if _, err := io.ReadFull(theirs, make([]byte, piece)); err != nil {
							return
						}
					}
				})
				c := link.Guarded(ours, stall)
				began := time.Now()
				n, err := c.Write(make([]byte, 8*piece))
				if took := time.Since(began); took != tc.took {
					t.Errorf("it took %v, want %v", took, tc.took)
				}
				if tc.fails {
					if !errors.Is(err, os.ErrDeadlineExceeded) || n == 8*piece {
						t.Errorf("wrote %d bytes: %v", n, err)
					}
					if _, err := c.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
						t.Errorf("afterwards: %v, want that it is closed", err)
					}
					return
				}
				if err != nil || n != 8*piece {
					t.Errorf("wrote %d bytes: %v", n, err)
				}
				time.Sleep(time.Hour) // the time of one write is not that of the next
				reader.Go(func() { _, _ = io.ReadFull(theirs, make([]byte, 1)) })
				if _, err := c.Write([]byte("x")); err != nil {
					t.Errorf("an hour later: %v", err)
				}
			})
		})
	}
}

// lateConn is a connection on which a write gets through after a time, whatever its
// deadline.
type lateConn struct {
	net.Conn
	takes time.Duration
	over  atomic.Bool // a deadline has been set and not lifted
}

func (c *lateConn) SetWriteDeadline(t time.Time) error {
	c.over.Store(!t.IsZero())
	return nil
}

func (c *lateConn) Write(p []byte) (int, error) {
	if c.over.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	time.Sleep(c.takes)
	return len(p), nil
}

// A write that got through, if only after its time, as in a process that was frozen
// meanwhile, is not held against the next one.
func TestWriteThatWasDoneTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		late := &lateConn{takes: time.Minute}
		c := link.Guarded(late, 5*time.Second)
		for range 3 {
			if n, err := c.Write([]byte("x")); n != 1 || err != nil {
				t.Fatalf("wrote %d bytes: %v", n, err)
			}
		}
		late.takes = time.Second
		if _, err := c.Write([]byte("x")); err != nil || late.over.Load() {
			t.Errorf("in time: %v, with a deadline: %v", err, late.over.Load())
		}
	})
}

// stuckPeer listens, lets clients in, and then reads nothing any more. It counts
// its clients.
func stuckPeer(t *testing.T) (url string, clients *atomic.Int64) {
	t.Helper()
	l := listen(t)
	clients = new(atomic.Int64)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			clients.Add(1)
			t.Cleanup(func() { _ = c.Close() })
			_, _ = io.WriteString(c, `INFO {"server_id":"S","server_name":"stuck","proto":1,"headers":true,"max_payload":1048576}`+"\r\n")
			for in := bufio.NewScanner(c); in.Scan(); {
				if in.Text() == "PING" {
					_, _ = io.WriteString(c, "PONG\r\n")
					break
				}
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return "nats://" + l.Addr().String(), clients
}

// stick publishes to a stuck peer until that is held up, and returns what ends
// when it no longer is.
func stick(t *testing.T, l *link.Link) (ended <-chan error) {
	t.Helper()
	ch := make(chan error, 1)
	var sent atomic.Int64
	go func() {
		for {
			if err := l.Publish(&wire.Out{Subject: "a", Data: make([]byte, 100_000)}); err != nil || l.Conn().IsReconnecting() {
				ch <- err
				return
			}
			sent.Add(1)
		}
	}()
	last := int64(-1)
	eventually(t, func() bool { // nothing went on for a while
		n := sent.Load()
		same := n == last && n > 0
		last = n
		return same && quiet(&sent, 50)
	})
	return ch
}

// quiet reports whether n stays what it is for a number of milliseconds.
func quiet(n *atomic.Int64, ms int) bool {
	before := n.Load()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range ms {
		<-tick.C
	}
	return n.Load() == before
}

// Abort frees those who wait for a peer that takes nothing, without a new
// connection, and then Close does not wait either.
func TestAbort(t *testing.T) {
	t.Parallel()
	url, clients := stuckPeer(t)
	l, to := open(t, nil, func(c *link.Config) { c.URL, c.Timeout = url, time.Hour })
	held := stick(t, l)
	none(t, held, "the end of the publishing")
	if l.Aborted() {
		t.Error("it says that it broke a connection")
	}
	l.Abort()
	if !l.Aborted() {
		t.Error("it does not say that it broke a connection")
	}
	next(t, held, "the end of the publishing")
	next(t, to.disconnected, "the loss of the connection")
	if err := l.Flush(t.Context(), 10*time.Millisecond); err == nil {
		t.Error("the flush after it was confirmed")
	}
	l.Abort() // again
	l.Close()
	next(t, to.closed, "the end")
	none(t, to.reconnected, "a connection")
	if n := clients.Load(); n != 1 {
		t.Errorf("it dialled %d times", n)
	}
}

// A peer that takes nothing for five seconds loses the connection, without anybody
// who aborts it.
func TestPeerThatTakesNothing(t *testing.T) {
	t.Parallel()
	url, clients := stuckPeer(t)
	l, to := open(t, nil, func(c *link.Config) { c.URL, c.Timeout = url, 4*time.Second }) // less than a stall
	began := time.Now()
	held := stick(t, l)
	next(t, held, "the end of the publishing")
	next(t, to.disconnected, "the loss of the connection")
	if took := time.Since(began); took < 5*time.Second {
		t.Errorf("it had %v only", took)
	}
	eventually(t, func() bool { return clients.Load() > 1 })
}

// A peer that is gone without a word, as when its machine lost power, is noticed.
func TestPeerThatSaysNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, first := newPeer(t)
		var r route
		r.to(first)
		began := time.Now()
		_, to := open(t, r.Dial)
		r.to(nowhere)
		err := <-to.disconnected
		if took := time.Since(began); !errors.Is(err, nats.ErrStaleConnection) || took != 75*time.Second {
			t.Errorf("%v after %v, want %v after 75s", err, took, nats.ErrStaleConnection)
		}
	})
}

// The handshake of a reconnect ends early, whatever the timeout of the bus is. After it there is no limit.
func TestHandshakeOfAReconnectIsLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := link.LimitedHandshake(ours)
		defer c.Close()
		for limit, want := range map[time.Duration]time.Duration{time.Minute: 5 * time.Second, time.Second: time.Second} {
			began := time.Now()
			if err := c.SetDeadline(began.Add(limit)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != want {
				t.Errorf("with a deadline of %v the handshake ended after %v: %v", limit, time.Since(began), err)
			}
		}
		if err := c.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Hour)
			_, _ = theirs.Write([]byte("x"))
		}()
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Errorf("after the handshake: %v", err)
		}
	})
}
