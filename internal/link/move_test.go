package link_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// inProcess is s as a target without a network, overPort with one.
func inProcess(s *testserver.Server) link.Target {
	return link.Target{URL: link.EmbeddedURL, InProcess: s.InProcessConn}
}

func overPort(s *testserver.Server) link.Target { return link.Target{URL: s.ClientURL()} }

// movable is a link with a user of each kind: a core subscription, a responder, a durable
// consumer and a window.
type movable struct {
	t      *testing.T
	link   *link.Link
	told   *told
	window *outlet.Window
	pull   *intake.Durable
	core   chan string
	stored chan string
}

// twoServers returns two servers that both have the stream S and its consumer C.
func twoServers(t *testing.T) (a, b *testserver.Server) {
	t.Helper()
	var both [2]*testserver.Server
	for i := range both {
		both[i] = testserver.New(t, testserver.WithJetStream, testserver.WithPort)
		js, err := jetstream.New(both[i].Conn(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "C", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
			t.Fatal(err)
		}
	}
	return both[0], both[1]
}

// newMovable returns one that leads to s.
func newMovable(t *testing.T, s *testserver.Server) *movable {
	t.Helper()
	m := &movable{t: t, core: make(chan string, 100), stored: make(chan string, 100)}
	m.link, m.told = open(t, s.InProcessConn)
	nc := m.link.Conn()
	for subject, callback := range map[string]nats.MsgHandler{
		"core": func(msg *nats.Msg) { m.core <- string(msg.Data) },
		"ask":  func(msg *nats.Msg) { _ = nc.Publish(msg.Reply, msg.Data) },
	} {
		if _, err := nc.Subscribe(subject, callback); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, nc)
	m.window = outlet.NewWindow(outlet.New(m.link, nil, new(telemetry.Bus)), 10)
	t.Cleanup(func() { m.window.Close() })
	var err error
	m.pull, err = intake.OpenDurable(m.link, intake.DurableConfig{
		Source:      intake.Source{Next: "$JS.API.CONSUMER.MSG.NEXT.S.C", Info: "$JS.API.CONSUMER.INFO.S.C"},
		Concurrency: 1, Window: 10, AckWait: 30 * time.Second, Timeout: 5 * time.Second,
		Policy: settle.Policy{MinBackoff: time.Second, MaxBackoff: time.Minute},
		Run: func(d wire.Delivery) settle.Outcome {
			m.stored <- string(d.Data)
			return settle.Outcome{}
		},
		Settling: func(wire.Delivery, string) func(error) { return func(error) {} },
		Report:   func(err error) { t.Logf("the consumer reported: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	m.pull.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = m.pull.Drain(ctx)
	})
	return m
}

// works checks that every user works, over the connection to s.
func (m *movable) works(s *testserver.Server, text string) {
	m.t.Helper()
	other := s.Conn(m.t)
	if err := other.Publish("core", []byte(text)); err != nil {
		m.t.Fatal(err)
	}
	flush(m.t, other)
	if got := next(m.t, m.core, "the core message"); got != text {
		m.t.Errorf("the subscription got %q, want %q", got, text)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), testTimeout)
	defer cancel()
	if r, err := other.RequestWithContext(ctx, "ask", []byte(text)); err != nil || string(r.Data) != text {
		m.t.Errorf("a request to the link: %v", err)
	}
	if r, err := m.link.Request(ctx, &wire.Out{Subject: "ask", Data: []byte(text)}); err != nil || string(r.Data) != text {
		m.t.Errorf("a request of the link: %v", err)
	}
	f := &outlet.Future{Message: outlet.Message{Out: wire.Out{Subject: "s", Data: []byte(text)}}, Deadline: time.Now().Add(testTimeout)}
	if err := m.window.Add(ctx, f); err != nil {
		m.t.Fatal(err)
	}
	if _, _, err := f.Wait(ctx); err != nil {
		m.t.Errorf("the window: %v", err)
	}
	if got := next(m.t, m.stored, "the stored message"); got != text {
		m.t.Errorf("the consumer got %q, want %q", got, text)
	}
}

// leadsTo checks that the link is connected to s.
func (m *movable) leadsTo(s *testserver.Server) {
	m.t.Helper()
	if got := m.link.Conn().ConnectedServerId(); got != s.NATS().ID() {
		m.t.Errorf("it leads to %s, want %s", got, s.NATS().ID())
	}
}

// to moves the link, within a time that is ample.
func (m *movable) to(target link.Target) {
	m.t.Helper()
	m.cut()
	m.lead(target)
}

// Whatever uses the link works before, after, and when it is back.
func TestMove(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]func(*testserver.Server) link.Target{"in process": inProcess, "over TCP": overPort} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := twoServers(t)
			m := newMovable(t, a)
			m.works(a, "before")
			for round := range 2 {
				m.to(target(b))
				m.leadsTo(b)
				m.works(b, "there"+strconv.Itoa(round))
				m.to(inProcess(a))
				m.leadsTo(a)
				m.works(a, "back"+strconv.Itoa(round))
			}
			if url := m.link.URL(); url != "" {
				t.Errorf("its URL is %q", url)
			}
		})
	}
}

// The connection comes back to the server to which it was moved.
func TestMovedLinkReconnects(t *testing.T) {
	t.Parallel()
	a, b := twoServers(t)
	m := newMovable(t, a)
	m.to(overPort(b))
	m.works(b, "before")
	if url := m.link.URL(); url != b.ClientURL() {
		t.Errorf("its URL is %q", url)
	}
	b.Restart()
	for end := time.Now().Add(testTimeout); m.link.Conn().ConnectedServerId() != b.NATS().ID() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	m.leadsTo(b)
	m.to(inProcess(a))
	m.works(a, "back")
}

// What is published while the link is moved arrives at the one server or the other.
func TestMoveLosesNothingFlushed(t *testing.T) {
	t.Parallel()
	a, b := twoServers(t)
	m := newMovable(t, a)
	var sent, got atomic.Int64
	for _, s := range []*testserver.Server{a, b} {
		nc := s.Conn(t)
		if _, err := nc.Subscribe("count", func(*nats.Msg) { got.Add(1) }); err != nil {
			t.Fatal(err)
		}
		flush(t, nc)
	}
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := m.link.Enter(t.Context()); err != nil {
				t.Error(err)
			}
			if err := m.link.Publish(&wire.Out{Subject: "count"}); err != nil {
				t.Error(err)
			}
			m.link.Leave()
			sent.Add(1)
			time.Sleep(50 * time.Microsecond)
		}
	})
	for i := range 10 {
		time.Sleep(5 * time.Millisecond)
		if err := m.link.Hold(t.Context()); err != nil {
			t.Error(err)
		}
		if err := m.link.Flush(t.Context(), testTimeout); err != nil {
			t.Error(err)
		}
		m.to([]link.Target{overPort(b), inProcess(a)}[i%2])
		m.link.Release()
	}
	close(stop)
	publishing.Wait()
	if err := m.link.Flush(t.Context(), testTimeout); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(testTimeout); got.Load() < sent.Load() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got.Load() != sent.Load() {
		t.Errorf("%d of %d messages came", got.Load(), sent.Load())
	}
}

// Calls at the same time take turns; the link leads where the last one says.
func TestMoveConcurrently(t *testing.T) {
	t.Parallel()
	a, b := twoServers(t)
	m := newMovable(t, a)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 3 {
				m.to([]link.Target{inProcess(a), overPort(b)}[i%2])
			}
		})
	}
	wg.Wait()
	m.to(inProcess(b))
	m.works(b, "after")
}

// Only connections to a server in this process read ahead, also after a move.
func TestMovedLinkReadsAhead(t *testing.T) {
	t.Parallel()
	a, b := twoServers(t)
	m := newMovable(t, a)
	for _, c := range []struct {
		target link.Target
		ahead  bool
	}{{overPort(b), false}, {inProcess(b), true}, {overPort(a), false}, {inProcess(a), true}} {
		m.to(c.target)
		if got := m.link.ReadsAhead(); got != c.ahead {
			t.Errorf("at %s it reads ahead: %t, want %t", c.target.URL, got, c.ahead)
		}
	}
}
