package outlet_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
	"github.com/omnibus-go/bus/internal/testserver"
)

// blockingPropagator blocks a sender at the moment when the trace is written into the
// message, after block and until unblock.
type blockingPropagator struct {
	propagation.TraceContext
	blocks    atomic.Bool
	unblocked chan struct{}
}

func (h *blockingPropagator) block() { h.blocks.Store(true) }

func (h *blockingPropagator) unblock() { close(h.unblocked) }

func (h *blockingPropagator) Inject(context.Context, propagation.TextMapCarrier) {
	if h.blocks.Load() {
		<-h.unblocked
	}
}

// newBlockableSender returns a sender and the propagator that can block it.
func newBlockableSender(t *testing.T, s *testserver.Server) (*sender, *blockingPropagator) {
	t.Helper()
	h := &blockingPropagator{unblocked: make(chan struct{})}
	tel, err := telemetry.New(telemetry.Config{TracerProvider: oteltest.New().TracerProvider(), Propagator: h})
	if err != nil {
		t.Fatal(err)
	}
	o := &sender{link: s.Link(t)}
	o.Outlet = outlet.New(o.link, tel, &o.counters)
	return o, h
}

// silentLink is a link that gets no answers after silence.
type silentLink struct {
	link   *link.Link
	silent atomic.Bool
}

func newSilentLink(t *testing.T) *silentLink {
	t.Helper()
	d := new(silentLink)
	s := testserver.New(t)
	d.link = testserver.Dial(t, func() (net.Conn, error) {
		c, err := s.InProcessConn()
		return &silentConn{Conn: c, silent: &d.silent}, err
	})
	return d
}

func (d *silentLink) silence() { d.silent.Store(true) }

type silentConn struct {
	net.Conn
	silent *atomic.Bool
}

// Write drops the bytes, so nothing is answered.
func (c *silentConn) Write(p []byte) (int, error) {
	if c.silent.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// testConn is a connection whose reads and writes a test controls. When the link dials
// again it gets another one.
type testConn struct {
	net.Conn
	dropsWrites  atomic.Bool   // drop what is written
	readDelay    time.Duration // of each read
	released     chan struct{} // closed by the test: blocked writes return
	blocksWrites atomic.Bool   // block writes until released is closed
}

func (w *testConn) Write(p []byte) (int, error) {
	if w.dropsWrites.Load() {
		return len(p), nil
	}
	if w.blocksWrites.Load() {
		<-w.released
		return 0, net.ErrClosed
	}
	return w.Conn.Write(p)
}

func (w *testConn) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err == nil {
		time.Sleep(w.readDelay)
	}
	return n, err
}

// dialTestConn returns a link over test connections, and a function that returns the
// latest one. While blocked is set, dialing fails.
func dialTestConn(t *testing.T, s *testserver.Server, late time.Duration) (l *link.Link, latest func() *testConn, blocked *atomic.Bool) {
	t.Helper()
	var last atomic.Pointer[testConn]
	blocked = new(atomic.Bool)
	t.Cleanup(func() { time.Sleep(late) }) // for a read that was late, when the link is closed
	l = testserver.Dial(t, func() (net.Conn, error) {
		if blocked.Load() {
			return nil, errors.New("blocked")
		}
		c, err := s.InProcessConn()
		w := &testConn{Conn: c, readDelay: late, released: make(chan struct{})}
		last.Store(w)
		return w, err
	})
	return l, last.Load, blocked
}
