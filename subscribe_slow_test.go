package bus_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// dropReports has the numbers of all reports of slow consumers, with the times.
type dropReports struct {
	mu      sync.Mutex
	dropped []int
	at      []time.Time
}

func (r *dropReports) option() bus.ConnectOption {
	return bus.WithEvents(func(e event.Event) {
		if e.Kind == event.SlowConsumer {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.dropped, r.at = append(r.dropped, e.Dropped), append(r.at, e.Time)
		}
	})
}

func (r *dropReports) all() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.dropped)
}

// The first message that is dropped is reported at once, and what follows from time
// to time, so that the last report always has them all.
func TestSlowConsumerIsReportedUntilTheEnd(t *testing.T) {
	t.Parallel()
	var r dropReports
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		began := time.Now()
		h, _, release := held[int](1000)
		sub, err := bus.Subscribe(b, "a", h, bus.PendingLimits(10, -1))
		must(t, err)
		publishRange(t, b, "a", 0, 50)
		synctest.Wait()
		if got := r.all(); len(got) != 1 || got[0] < 1 {
			t.Fatalf("reported at once: %v", got)
		}
		first := r.all()[0]
		lost := int(b.Stats().Dropped)
		time.Sleep(time.Minute + time.Millisecond)
		if got := r.all(); first < lost && !slices.Equal(got, []int{first, lost}) {
			t.Errorf("after a minute %v, want %d, %d", got, first, lost)
		}
		time.Sleep(10 * time.Minute) // nothing more: the same number is not told twice
		if got := r.all(); got[len(got)-1] != lost || len(got) > 2 {
			t.Errorf("after ten minutes %v, %d are lost", got, lost)
		}
		publishRange(t, b, "a", 0, 7) // the handler is still stuck, and nats.go tells of nothing
		time.Sleep(time.Minute)
		if got := r.all(); got[len(got)-1] != lost+7 {
			t.Errorf("after more drops %v, want %d in the end", got, lost+7)
		}
		close(release)
		synctest.Wait()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		count := len(r.all())
		publishRange(t, b, "a", 0, 5)
		time.Sleep(10 * time.Minute)
		if got := r.all(); len(got) != count {
			t.Errorf("though nothing is dropped any more: %v", got)
		}
		must(t, sub.Drain(t.Context()))
		for i, at := range r.at[:len(r.at)-1] {
			if wait := r.at[i+1].Sub(at); wait < time.Minute {
				t.Errorf("reports at %v and %v after the start", at.Sub(began), r.at[i+1].Sub(began))
			}
		}
	}, r.option(), bus.WithLogger(silent()))
}

// What was dropped since the last report is told when the subscription ends.
func TestSlowConsumerIsReportedAtItsEnd(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*bus.Bus, *bus.Subscription) error{
		"Unsubscribe": func(_ *bus.Bus, s *bus.Subscription) error { return s.Unsubscribe() },
		"Drain":       func(_ *bus.Bus, s *bus.Subscription) error { return s.Drain(context.Background()) },
		"Close":       func(b *bus.Bus, _ *bus.Subscription) error { return b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r dropReports
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				h, _, release := held[int](1000)
				sub, err := bus.Subscribe(b, "a", h, bus.PendingLimits(10, -1))
				must(t, err)
				publishRange(t, b, "a", 0, 50)
				synctest.Wait()
				close(release)
				must(t, end(b, sub))
				if got, lost := r.all(), int(b.Stats().Dropped); got[len(got)-1] != lost || lost < 39 {
					t.Errorf("reported %v, lost %d", got, lost)
				}
			}, r.option(), bus.WithLogger(silent()))
		})
	}
}

// A subscription that is too slow all the time does not flood the log.
func TestSlowConsumerDoesNotFloodTheLog(t *testing.T) {
	t.Parallel()
	var r dropReports
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		_, err := bus.Subscribe(b, "a", func(context.Context, *bus.Msg[int]) error {
			time.Sleep(20 * time.Millisecond)
			return nil
		}, bus.PendingLimits(2, -1))
		must(t, err)
		for range 10 * 60 * 2 { // ten minutes
			publishRange(t, b, "a", 0, 5)
			time.Sleep(500 * time.Millisecond)
		}
		time.Sleep(2 * time.Minute)
		got, lost := r.all(), int(b.Stats().Dropped)
		if len(got) < 5 || len(got) > 20 || got[len(got)-1] != lost || !slices.IsSorted(got) {
			t.Errorf("reported %v, lost %d", got, lost)
		}
	}, r.option(), bus.WithLogger(silent()))
}

// The function that is told of it may end the subscription, or the bus.
func TestSlowConsumerIsEndedByItsReport(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*bus.Bus, *bus.Subscription) error{
		"the subscription": func(_ *bus.Bus, s *bus.Subscription) error { return s.Unsubscribe() },
		"the bus":          func(b *bus.Bus, _ *bus.Subscription) error { return b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var sub *bus.Subscription
			var release chan struct{}
			var b *bus.Bus
			result, reports := make(chan error, 1), atomic.Int64{}
			bustest.Run(t, func(t *testing.T, own *bus.Bus) {
				b = own
				var h bus.Handler[int]
				h, _, release = held[int](1000)
				var err error
				sub, err = bus.Subscribe(b, "a", h, bus.PendingLimits(10, -1))
				must(t, err)
				publishRange(t, b, "a", 0, 50)
				synctest.Wait()
				publishRange(t, b, "a", 0, 50)
				time.Sleep(time.Minute + time.Second)
				must(t, receive(t, result))
				must(t, b.Close())
			}, bus.WithLogger(silent()), bus.WithEvents(func(e event.Event) {
				if e.Kind == event.SlowConsumer && reports.Add(1) == 2 { // of a minute later
					close(release)
					result <- end(b, sub)
				}
			}))
		})
	}
}

// Of many that begin, go on and end at once no report is lost.
func TestSlowConsumersConcurrently(t *testing.T) {
	t.Parallel()
	var r dropReports
	b := ownBus(t, r.option(), bus.WithLogger(silent()))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				sub, err := bus.Subscribe(b, "a", func(context.Context, *bus.Msg[int]) error { return nil }, bus.PendingLimits(1, -1), bus.Concurrency(2))
				must(t, err)
				for i := range 200 {
					must(t, bus.Publish(t.Context(), b, "a", i))
				}
				must(t, sub.Unsubscribe())
			}
		})
	}
	wg.Wait()
	must(t, b.Close())
}

// What Subscribe returns with an error can be ended like any other.
func TestSubscriptionThatIsNone(t *testing.T) {
	t.Parallel()
	for name, sub := range map[string]*bus.Subscription{"nil": nil, "zero": {}} {
		if err := errors.Join(sub.Unsubscribe(), sub.Drain(t.Context())); err != nil || sub.Subject() != "" {
			t.Errorf("%s: %q, %v", name, sub.Subject(), err)
		}
		wait(t, sub.Done(), name)
	}
}
