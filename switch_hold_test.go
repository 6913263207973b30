package bus_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

// A publish without an answer ends the hold, also without MaxWait: after four fifths of the timeout of
// the bus. Then the bus goes on as before.
func TestSwitchToWhilePublishing(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := ownBus(t, bus.WithTimeout(2*time.Second))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	silent := declare(t, b, bus.StreamConfig{Name: "T", Subjects: []string{"t.*"}})
	must(t, b.JetStream().DeleteStream(t.Context(), "T"))
	taken, err := b.Conn().SubscribeSync("t.1") // takes the message and does not answer
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	published := make(chan error, 1)
	go func() { published <- second(bus.PublishTo(ctx, silent, "t.1", 1)) }()
	must(t, second(taken.NextMsgWithContext(t.Context())))
	_, err = b.SwitchTo(t.Context(), target.ClientURL(), switchover.MaxWait(50*time.Millisecond))
	asError[*switchover.Error](t, err, "MaxWait", "the bus is where it was")
	report, err := b.SwitchTo(t.Context(), target.ClientURL())
	asError[*switchover.Error](t, err, "MaxWait", "the bus is where it was")
	if report.Waited < 1600*time.Millisecond || report.Waited >= switchover.DefaultMaxWait {
		t.Errorf("publishers waited %v, want 1.6s and the way back", report.Waited)
	}
	storeNumbers(t, st, 1, 3)
	must(t, bus.Publish(t.Context(), b, "x", 1))
	must(t, b.Flush(t.Context()))
	cancel()
	isError(t, <-published, context.Canceled)
}

// A call that waits for another switch ends with its context.
func TestSwitchToWaitsForAnother(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := ownBus(t)
	declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	switchTo(t, b, target.ClientURL(), at(switchover.Copy, func() {
		canceled, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		isError(t, second(b.SwitchTo(canceled, target.ClientURL())), context.Canceled)
		late, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		isError(t, second(b.SwitchTo(late, target.ClientURL())), bus.ErrTimeout)
	}))
}

// What OnProgress does ends no switch.
func TestSwitchToProgressPanics(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := ownBus(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 3)
	switchTo(t, b, target.ClientURL(), switchover.OnProgress(func(switchover.Progress) { panic("of the program") }))
	storeNumbers(t, st, 4, 6)
}

// A Consume that asks the server when the hold begins is finished before it, and later ones
// wait.
func TestSwitchToWhileConsumeBegins(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := ownBus(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 3)
	asked := make(chan *nats.Msg, 100)
	must(t, second(b.Conn().ChanSubscribe("$JS.API.CONSUMER.CREATE.S.>", asked)))
	got, began := make(chan int, 100), make(chan error, 2)
	begin := func(durable string) {
		_, err := bus.Consume(t.Context(), st, durable, "s.*", func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil }, bus.KeyBySubject())
		began <- err
	}
	switchTo(t, b, target.ClientURL(), switchover.OnProgress(func(p switchover.Progress) {
		switch p.Phase { //nolint:exhaustive // nothing begins later
		case switchover.Hold:
			go begin("before")
			receive(t, asked)
		case switchover.Cut:
			go begin("meanwhile")
		}
	}))
	must(t, <-began)
	must(t, <-began)
	for range 6 {
		receive(t, got)
	}
	keys, err := b.JetStream().Stream(t.Context(), "S-keys")
	must(t, err)
	eventually(t, "both durables are shared", func() bool {
		state, err := keys.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		must(t, err)
		shared := strings.Join(slices.Collect(maps.Keys(state.State.Subjects)), " ")
		return strings.Contains(shared, ".before.") && strings.Contains(shared, ".meanwhile.")
	})
}

// However many consumers of the bus share one durable, the hold is short, and each message is
// handled once.
func TestSwitchToWithManyConsumersOfOneDurable(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 8, 16, 64} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			target := newTarget(t)
			b := ownBus(t)
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			var all ledger
			for range n {
				consume(t, st, "c", "s.*", all.handle, bus.Concurrency(2))
			}
			ctx, stop := context.WithCancel(t.Context())
			last := make(chan int, 1)
			go func() {
				n := 0
				for ; ctx.Err() == nil; n++ {
					if _, err := bus.PublishTo(t.Context(), st, bus.Subject[int]("s.1"), n+1); err != nil {
						t.Errorf("PublishTo: %v", err)
					}
				}
				last <- n
			}()
			eventually(t, "messages are handled", func() bool { return all.distinct() > 10*n })
			report, err := b.SwitchTo(t.Context(), target.ClientURL()) // with MaxWait as it is
			must(t, err)
			t.Log(report.Waited, report.Phases)
			stop()
			stored := receive(t, last)
			eventually(t, "all are handled", func() bool { return all.distinct() == stored })
			all.mustBeOnce(t, stored)
		})
	}
}
