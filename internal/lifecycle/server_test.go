package lifecycle_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// engine is what lives on a bus, on a real server: one member of each kind.
type engine struct {
	lifecycle.Registry
	t        *testing.T
	link     *link.Link
	out      *outlet.Outlet
	async    *outlet.Async
	window   *outlet.Window
	received atomic.Int64 // by the subscription
	answered atomic.Int64 // by the responder
	consumed atomic.Int64 // by the consumer
	running  atomic.Int64 // handlers
}

func newEngine(t *testing.T, s *testserver.Server) *engine {
	t.Helper()
	e := &engine{t: t, link: s.Link(t)}
	e.out = outlet.New(e.link, nil, new(telemetry.Bus))
	e.async = outlet.NewAsync(e.out, outlet.AsyncConfig{Size: 10, Wait: true,
		Failed: func(_ *outlet.Message, err error) { t.Errorf("async: %v", err) },
		Lost:   func(n int) { t.Errorf("async: %d messages are lost", n) }})
	e.window = outlet.NewWindow(e.out, 10)
	e.SetSenders(e.async, e.out)
	e.subscribe("core", lifecycle.StageSubscribers, 4, func(wire.In) { e.received.Add(1) })
	e.subscribe("ask", lifecycle.StageResponders, 1, func(in wire.In) {
		e.answered.Add(1)
		_ = e.out.Reply(t.Context(), &outlet.Message{Out: wire.Out{Subject: in.Reply}})
	})
	e.consume()
	return e
}

// handler counts the handlers that run.
func (e *engine) handler(f func()) {
	e.running.Add(1)
	defer e.running.Add(-1)
	f()
}

func (e *engine) subscribe(subject string, stage lifecycle.Stage, concurrency int, handle func(wire.In)) {
	e.t.Helper()
	s := intake.NewCore(e.link, intake.CoreConfig{Subject: subject, Concurrency: concurrency, PendingMsgs: -1, PendingBytes: -1, Timeout: 5 * time.Second,
		Run:    func(in wire.In, _ int64) { e.handler(func() { handle(in) }) },
		Failed: func(err error) { e.t.Errorf("%s: %v", subject, err) }})
	if err := s.Open(); err != nil {
		e.t.Fatal(err)
	}
	if err := e.Add(stage, s, s); err != nil {
		e.t.Fatal(err)
	}
}

// consume declares the stream S with its consumer C, and consumes. Its handler asks the
// responder.
func (e *engine) consume() {
	e.t.Helper()
	js, err := jetstream.New(e.link.Conn())
	if err != nil {
		e.t.Fatal(err)
	}
	st, err := js.CreateStream(e.t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	if err != nil {
		e.t.Fatal(err)
	}
	if _, err := st.CreateConsumer(e.t.Context(), jetstream.ConsumerConfig{Durable: "C", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		e.t.Fatal(err)
	}
	d, err := intake.OpenDurable(e.link, intake.DurableConfig{
		Source:      intake.Source{Next: "$JS.API.CONSUMER.MSG.NEXT.S.C", Info: "$JS.API.CONSUMER.INFO.S.C"},
		Concurrency: 2, Window: 100, AckWait: 30 * time.Second, Timeout: 5 * time.Second,
		Policy: settle.Policy{MinBackoff: time.Second, MaxBackoff: time.Minute},
		Run: func(wire.Delivery) settle.Outcome {
			e.handler(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				if _, err := e.link.Request(ctx, &wire.Out{Subject: "ask"}); err != nil {
					e.t.Errorf("a handler's request: %v", err)
				}
				e.consumed.Add(1)
			})
			return settle.Outcome{}
		},
		Settling: func(wire.Delivery, string) func(error) { return func(error) {} },
		Report:   func(err error) { e.t.Errorf("the consumer reported: %v", err) },
	})
	if err != nil {
		e.t.Fatal(err)
	}
	if err := e.Add(lifecycle.StageSubscribers, d, d); err != nil {
		e.t.Fatal(err)
	}
	d.Start()
}

// publish sends n messages in each way, and requests. None may fail.
func (e *engine) publish(n int) {
	ctx, cancel := context.WithTimeout(e.t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	message := func(subject string) *outlet.Message { return &outlet.Message{Out: wire.Out{Subject: subject}} }
	for name, send := range map[string]func() error{
		"Send":  func() error { return e.out.Send(ctx, message("core")) },
		"Async": func() error { return e.async.Add(ctx, message("core")) },
		"Store": func() error { _, err := e.out.Store(ctx, message("s")); return err },
		"Window": func() error {
			f := &outlet.Future{Message: *message("s"), Deadline: time.Now().Add(30 * time.Second)}
			if err := e.window.Add(ctx, f); err != nil {
				return err
			}
			_, _, err := f.Wait(ctx)
			return err
		},
	} {
		wg.Go(func() {
			for range n {
				if err := send(); err != nil {
					e.t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
}

// await waits until all that publish sent n times was handled, and nothing twice.
func (e *engine) await(n int64) {
	e.t.Helper()
	for end := time.Now().Add(20 * time.Second); (e.received.Load() < 2*n || e.consumed.Load() < 2*n) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if r, c, a := e.received.Load(), e.consumed.Load(), e.answered.Load(); r != 2*n || c != 2*n || a != 2*n {
		e.t.Errorf("%d received, %d consumed, %d answered; want %d", r, c, a, 2*n)
	}
}

// close ends all in the order of a bus.
func (e *engine) close() {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 20*time.Second)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		e.t.Error(err)
	}
	if n := e.async.Drain(ctx); n != 0 {
		e.t.Errorf("%d were not sent", n)
	}
	if err := e.link.Shut(ctx); err != nil {
		e.t.Error(err)
	}
	if n := e.window.Close(); n != 0 {
		e.t.Errorf("%d have no outcome", n)
	}
}

// While everything is quiesced no handler runs, publishers wait, and nothing is lost.
func TestQuiesceOfEverything(t *testing.T) {
	t.Parallel()
	e := newEngine(t, testserver.New(t, testserver.WithJetStream))
	const messages = 300
	published := make(chan struct{})
	go func() {
		defer close(published)
		e.publish(messages)
	}()
	for range 5 {
		time.Sleep(2 * time.Millisecond)
		if err := e.Quiesce(t.Context()); err != nil {
			t.Error(err)
		}
		received, consumed, answered := e.received.Load(), e.consumed.Load(), e.answered.Load()
		time.Sleep(5 * time.Millisecond)
		if r, c, a := e.received.Load(), e.consumed.Load(), e.answered.Load(); r != received || c != consumed || a != answered || e.running.Load() != 0 {
			t.Errorf("while quiesced %d were received, %d consumed, %d answered; %d handlers run", r-received, c-consumed, a-answered, e.running.Load())
		}
		e.Resume()
	}
	<-published
	e.await(messages)
	e.close()
}

// Close of a quiesced bus handles what has arrived.
func TestCloseOfEverythingWhileQuiesced(t *testing.T) {
	t.Parallel()
	e := newEngine(t, testserver.New(t, testserver.WithJetStream))
	e.publish(20)
	e.await(20)
	if err := e.Quiesce(t.Context()); err != nil {
		t.Error(err)
	}
	e.close()
}

// Ten goroutines quiesce and resume at will while all is in use.
func TestQuiesceOfEverythingUnderLoad(t *testing.T) {
	t.Parallel()
	e := newEngine(t, testserver.New(t, testserver.WithJetStream))
	const messages = 100
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			for n := range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((i+n)%4)*200*time.Microsecond)
				_ = e.Quiesce(ctx)
				cancel()
				e.Resume()
			}
		})
	}
	wg.Go(func() { e.publish(messages) })
	wg.Wait()
	e.Resume()
	e.await(messages)
	e.close()
}
