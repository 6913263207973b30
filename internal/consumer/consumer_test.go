package consumer

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/testserver/testcore"
	"github.com/omnibus-go/bus/internal/wire"
)

// world is a server with the stream S, and a consumer to configure.
type world struct {
	core   *core.Core
	cfg    Config
	got    chan wire.Delivery
	events chan event.Event
	ended  chan struct{}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{core: testcore.New(t, testserver.New(t, testserver.WithJetStream)),
		got: make(chan wire.Delivery, 100), events: make(chan event.Event, 100), ended: make(chan struct{})}
	st, err := w.core.JetStream.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	w.cfg = Config{Core: w.core, Holders: new(Holders), Durable: "d", Filters: []string{All}, Concurrency: 1,
		Stream: sidestream.Stream{Name: "S", Incarnation: sidestream.IncarnationOf(st.CachedInfo())},
		Policy: settle.Policy{MaxAttempts: 1, MinBackoff: 1, MaxBackoff: 1}, MaxCrashes: 3,
		Handler: Handler{Run: w.run, Cause: func(error) string { return "error" }, Context: t.Context(), Counters: new(telemetry.Handler),
			Exited: func(wire.Delivery) settle.Outcome { return settle.Outcome{Err: errors.New("exited")} }},
		Report:     func(e event.Event) { w.events <- e },
		Ended:      func() { close(w.ended) },
		Deleted:    func() {},
		DrainError: func(e *UnfinishedError) error { return e.Err },
	}
	return w
}

// run fails the messages on s.bad.
func (w *world) run(d wire.Delivery) settle.Outcome {
	w.got <- d
	if d.Subject == "s.bad" {
		return settle.Outcome{Err: errors.New("bad")}
	}
	return settle.Outcome{}
}

func (w *world) open(t *testing.T) *Consumer {
	t.Helper()
	c, err := Open(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.Start()
	return c
}

func (w *world) publish(t *testing.T, subjects ...string) {
	t.Helper()
	for _, s := range subjects {
		if _, err := w.core.JetStream.Publish(t.Context(), s, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// receive fails the test unless the messages with these sequences come.
func (w *world) receive(t *testing.T, sequences ...uint64) {
	t.Helper()
	for _, want := range sequences {
		if d := <-w.got; d.Stored.Sequence != want {
			t.Fatalf("message %d came, want %d", d.Stored.Sequence, want)
		}
	}
}

// A consumer handles what there is, goes back, and ends once.
func TestConsumer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(t, "s.a", "s.bad", "s.b")
	c := w.open(t)
	w.receive(t, 1, 2, 3)
	if e := <-w.events; e.Kind != event.DeadLetter || e.Sequence != 2 || e.Stream != "S" || e.Durable != "d" {
		t.Errorf("got %+v", e)
	}
	if err := c.Rewind(t.Context(), Start{Kind: StartSequence, Sequence: 3}); err != nil {
		t.Fatal(err)
	}
	w.receive(t, 3)
	if e, ok := errors.AsType[*RewindError](c.Rewind(t.Context(), Start{Kind: StartSequence, Sequence: 9})); !ok || e.Sequence != 9 || e.Reason == "" {
		t.Errorf("got %+v", e)
	}
	if err := c.Drain(t.Context()); err != nil {
		t.Errorf("got %v", err)
	}
	<-w.ended
	if s := c.Stats(); s.Begun != 4 || s.Ended != 4 {
		t.Errorf("the statistics are %+v", s)
	}
	if l, err := c.Lag(t.Context()); err != nil || l != (Lag{}) {
		t.Errorf("the lag is %+v, %v", l, err)
	}
	if err := c.Drain(t.Context()); err != nil || !c.Ending() {
		t.Errorf("the second drain got %v", err)
	}
}

// A consumer whose durable is deleted says so and ends.
func TestDeletedConsumerEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.open(t)
	if err := w.core.JetStream.DeleteConsumer(t.Context(), "S", "d"); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if e := <-w.events; e.Kind != event.ConsumerStalled || c.Err() == nil {
		t.Errorf("got %+v, and it ended because of %v", e, c.Err())
	}
}

// A durable with keys has one holder, which another may follow.
func TestHolders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.core.Alone.Store(true)
	w.cfg.Ended = func() {}
	w.cfg.Key = Key{Name: "subject", Of: func(d *wire.Delivery) (string, error) { return d.Subject, nil }}
	first := w.open(t)
	if _, err := Open(t.Context(), w.cfg); !errors.Is(err, ErrKeysHeld) {
		t.Errorf("got %v", err)
	}
	first.Stop()
	second := w.open(t)
	w.publish(t, "s.a")
	w.receive(t, 1)
	second.Stop()
	<-second.Done()
}

// A consumer of a stream that does not exist holds nothing.
func TestOpenInVain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.core.Alone.Store(true)
	w.cfg.Key = Key{Name: "subject", Of: func(d *wire.Delivery) (string, error) { return d.Subject, nil }}
	w.cfg.Stream.Name = "T"
	for range 2 {
		_, err := Open(t.Context(), w.cfg)
		if e, ok := errors.AsType[*jserr.Error](err); !ok || e.Stream != "T" {
			t.Errorf("got %v", err)
		}
	}
	w.cfg.Stream.Name = "S"
	c, err := Open(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.Abort(context.Background())
	if !c.Ending() {
		t.Error("it has not ended")
	}
}
