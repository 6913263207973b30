package outlet_test

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/testserver"
)

const large = 100_000 // more than nats.go keeps in its buffer

// breaking is a connection whose next write of large messages fails where that is asked
// for; what nats.go writes meanwhile on a goroutine of its own is smaller.
type breaking struct {
	net.Conn
	breaks *atomic.Bool
}

func (c *breaking) Write(p []byte) (int, error) {
	if len(p) >= large/10 && c.breaks.CompareAndSwap(true, false) {
		return 0, errors.New("broken pipe")
	}
	return c.Conn.Write(p)
}

// nats.go writes a large message where it is published. When that finds the connection
// lost, the message was not sent: it is on the next one, with an ID or without.
func TestConnectionThatIsFoundLost(t *testing.T) {
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
			return o.StoreBatch(t.Context(), "b", []outlet.Message{message(), message()})
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
				return &breaking{c, &breaks}, err
			})
			breaks.Store(true)
			ack, err := store(outlet.New(l, nil, new(telemetry.Bus)))
			if err != nil || ack.Sequence != 7 || breaks.Load() || l.Conn().Stats().Reconnects != 1 {
				t.Errorf("got %+v, %v after %d reconnects", ack, err, l.Conn().Stats().Reconnects)
			}
		})
	}
}

// A message that is published when the connection is found lost is not on the next one.
func TestSendOnAConnectionThatIsFoundLost(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	var breaks atomic.Bool
	l := testserver.Dial(t, func() (net.Conn, error) {
		c, err := s.InProcessConn()
		return &breaking{c, &breaks}, err
	})
	m := message("")
	m.Data = make([]byte, large)
	breaks.Store(true)
	if err := outlet.New(l, nil, new(telemetry.Bus)).Send(t.Context(), m); !errors.Is(err, link.ErrDisconnected) {
		t.Errorf("got %v", err)
	}
}
