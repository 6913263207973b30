package outlet_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
	"github.com/omnibus-go/bus/internal/testserver"
)

const large = 100_000 // more than nats.go keeps in its buffer

// failingConn is a connection whose next write of a large message fails if fails is set.
// Other writes of nats.go are smaller.
type failingConn struct {
	net.Conn
	fails *atomic.Bool
}

func (c *failingConn) Write(p []byte) (int, error) {
	if len(p) >= large/10 && c.fails.CompareAndSwap(true, false) {
		return 0, errors.New("broken pipe")
	}
	return c.Conn.Write(p)
}

// nats.go writes a large message on the goroutine that publishes it. If that write finds the
// connection lost, the message was not sent. It is sent over the next connection, with an
// ID or without.
func TestSendAgainWhenTheConnectionIsFoundLost(t *testing.T) {
	t.Parallel()
	message := func() outlet.Message {
		m := *message("")
		m.Data = make([]byte, large)
		return m
	}
	for name, store := range map[string]func(*outlet.Outlet) (outlet.Ack, error){
		"Store": func(o *outlet.Outlet) (outlet.Ack, error) {
			m := message()
			return o.Store(t.Context(), &m)
		},
		"StoreBatch": func(o *outlet.Outlet) (outlet.Ack, error) {
			return o.StoreBatch(t.Context(), &outlet.Batch{Name: "b", Messages: []outlet.Message{message(), message()}})
		},
		"Window": func(o *outlet.Outlet) (outlet.Ack, error) {
			w := outlet.NewWindow(o, 1)
			defer w.Close()
			r := &outlet.Future{Message: message(), Deadline: time.Now().Add(time.Minute)}
			if err := w.Add(t.Context(), r); err != nil {
				return outlet.Ack{}, err
			}
			ack, _, err := r.Wait(t.Context())
			return ack, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			stream(t, s, func(_ int, m *nats.Msg) string {
				if m.Reply == "" {
					return "" // not the last one of a batch
				}
				return ackText
			})
			var breaks atomic.Bool
			l := testserver.Dial(t, func() (net.Conn, error) {
				c, err := s.InProcessConn()
				return &failingConn{c, &breaks}, err
			})
			breaks.Store(true)
			ack, err := store(outlet.New(l, nil, new(telemetry.Bus)))
			if err != nil || ack.Sequence != 7 || breaks.Load() || l.Conn().Stats().Reconnects != 1 {
				t.Errorf("got %+v, %v after %d reconnects", ack, err, l.Conn().Stats().Reconnects)
			}
		})
	}
}

// A published message that finds the connection lost is not sent over the next one.
func TestSendOnAConnectionThatIsFoundLost(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	var breaks atomic.Bool
	l := testserver.Dial(t, func() (net.Conn, error) {
		c, err := s.InProcessConn()
		return &failingConn{c, &breaks}, err
	})
	m := message("")
	m.Data = make([]byte, large)
	breaks.Store(true)
	if err := outlet.New(l, nil, new(telemetry.Bus)).Send(t.Context(), m); !errors.Is(err, link.ErrDisconnected) {
		t.Errorf("got %v", err)
	}
}

func TestStoreAfterTheGateIsShut(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	stream(t, s, func(int, *nats.Msg) string { t.Error("a message was sent"); return ackText })
	o := newSender(t, s)
	if err := o.link.Shut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Store(t.Context(), message("x")); !errors.Is(err, link.ErrShut) {
		t.Errorf("Store returned %v", err)
	}
	if err := o.Send(t.Context(), message("")); !errors.Is(err, link.ErrShut) {
		t.Errorf("Send returned %v", err)
	}
	if _, err := o.Request(t.Context(), message("")); !errors.Is(err, link.ErrShut) {
		t.Errorf("Request returned %v", err)
	}
	if n := o.counters.PublishFailed.Load(); n != 2 {
		t.Errorf("counted %d failures, want 2", n)
	}
}

// The trace in a header must not make a message too large that is not.
func TestTraceThatDoesNotFit(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, func(o *server.Options) { o.MaxPayload = 1000 })
	provider := oteltest.New().TracerProvider()
	tel, err := telemetry.New(telemetry.Config{TracerProvider: provider, Propagator: chatty{}})
	if err != nil {
		t.Fatal(err)
	}
	handling, span := provider.Tracer("handler").Start(t.Context(), "a request")
	defer span.End()
	l := s.Link(t)
	o := outlet.New(l, tel, new(telemetry.Bus))
	got := make(chan *nats.Msg, 10)
	stream(t, s, func(_ int, m *nats.Msg) string {
		got <- m
		if m.Reply == "nobody" {
			return ""
		}
		return ackText
	})
	for _, tc := range []struct {
		size   int
		traced bool
		fits   bool
	}{{100, true, true}, {600, false, true}, {2000, false, false}} {
		for name, send := range map[string]func(*outlet.Message) error{
			"Send":    func(m *outlet.Message) error { return o.Send(t.Context(), m) },
			"Store":   func(m *outlet.Message) error { _, err := o.Store(t.Context(), m); return err },
			"Request": func(m *outlet.Message) error { _, err := o.Request(t.Context(), m); return err },
			"Reply":   func(m *outlet.Message) error { return o.Reply(handling, m) },
		} {
			for _, own := range []bool{false, true} {
				m := message("")
				m.Data, m.Reply = make([]byte, tc.size), "nobody"
				if own {
					m.SetHeader("Own", "1")
				}
				err := send(m)
				if !tc.fits {
					large, ok := errors.AsType[*outlet.TooLargeError](err)
					if !ok || large.Subject != "stored" || large.Size < tc.size || large.Limit != 1000 {
						t.Errorf("%s of %d bytes: %v", name, tc.size, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s of %d bytes: %v", name, tc.size, err)
					continue
				}
				if m := <-got; (m.Header.Get("trace") != "") != tc.traced || (m.Header.Get("Own") != "") != own {
					t.Errorf("%s of %d bytes arrived with %d headers", name, tc.size, len(m.Header))
				}
			}
		}
	}
}

// chatty is a propagator that has much to say.
type chatty struct{ propagation.TraceContext }

func (chatty) Inject(_ context.Context, c propagation.TextMapCarrier) {
	c.Set("trace", strings.Repeat("x", 500))
}
