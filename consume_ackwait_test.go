package bus_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// slowOnce returns a handler that takes long and fails the test if a message comes twice,
// and the number of its calls.
func slowOnce(t *testing.T, takes time.Duration) (h bus.Handler[int], calls func() int) {
	var mu sync.Mutex
	seen := make(map[int]bool)
	return func(_ context.Context, m *bus.Msg[int]) error {
			mu.Lock()
			if seen[m.Data] || m.Deliveries > 1 {
				t.Errorf("message %d comes again, delivery %d", m.Data, m.Deliveries)
			}
			seen[m.Data] = true
			mu.Unlock()
			time.Sleep(takes) // in the bubble: virtual time
			return nil
		}, func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(seen)
		}
}

func mustAckWait(t *testing.T, b *bus.Bus, want time.Duration, announced string) {
	t.Helper()
	for _, stream := range []string{"S", "S-retry"} {
		if have := consumerInfo(t, b, stream, "d").Config.AckWait; have != want {
			t.Errorf("AckWait is %v in %s, want %v", have, stream, want)
		}
	}
	if have := consumerInfo(t, b, "S", "d").Config.Metadata["_omnibus.ack_wait"]; have != announced {
		t.Errorf("%q is announced, want %q", have, announced)
	}
}

// A process that starts with a shorter AckWait does not have the messages redelivered that
// others handle: they signal more often before it counts. That holds for messages that come at
// whatever moment, after an hour without any, and for those that come back from S-retry.
func TestAShorterAckWaitRedeliversNothing(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bus.ConsumeOption{
		"single":  {bus.Concurrency(100)},
		"batches": {bus.Concurrency(100), bus.BatchSize(1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				h, calls := slowOnce(t, 2*time.Minute)
				join := func(ackWait time.Duration) {
					opts := append(opts, bus.AckWait(ackWait))
					if name == "batches" {
						consumeBatch(t, st, "d", "S", func(ctx context.Context, ms []*bus.Msg[int]) error { return h(ctx, ms[0]) }, opts...)
					} else {
						consume(t, st, "d", "S", h, opts...)
					}
				}
				join(time.Minute)
				pass(time.Hour)
				storeRange(t, st, "S", 0, 2)
				pass(time.Second)
				join(2 * time.Second)
				mustAckWait(t, b, time.Minute, "2s")
				n := 2
				for range 300 {
					storeRange(t, st, "S", n, n+1)
					n++
					pass(100 * time.Millisecond)
				}
				mustAckWait(t, b, 2*time.Second, "")
				pass(5 * time.Minute)
				if calls() != n || consumerInfo(t, b, "S", "d").NumAckPending != 0 {
					t.Errorf("%d of %d messages were handled", calls(), n)
				}
			})
		})
	}
}

// Messages that wait in S-retry are kept alive for the shorter AckWait, too.
func TestAShorterAckWaitCountsForRetries(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		var mu sync.Mutex
		running, calls := 0, 0
		h := func(_ context.Context, m *bus.Msg[int]) error {
			if m.Attempt == 1 {
				return bus.RetryAfter(time.Minute, fmt.Errorf("later"))
			}
			mu.Lock()
			running++
			calls++
			if running > 1 {
				t.Error("it is handled twice at once")
			}
			mu.Unlock()
			time.Sleep(5 * time.Minute) // in the bubble: virtual time
			mu.Lock()
			running--
			mu.Unlock()
			return nil
		}
		consume(t, st, "d", "S", h, bus.AckWait(time.Minute))
		storeRange(t, st, "S", 0, 1)
		pass(90 * time.Second) // it is back, and runs
		consume(t, st, "d", "S", h, bus.AckWait(2*time.Second))
		pass(30 * time.Minute)
		mustAckWait(t, b, 2*time.Second, "")
		if calls != 1 {
			t.Errorf("the handler was called %d times", calls)
		}
	})
}

// Where nobody takes part a shorter AckWait counts at once, a longer one always. What somebody
// announced who died is done by the next one, or called off.
func TestChangesOfAckWait(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		join := func(ackWait time.Duration) *bus.Consumer {
			c := consume(t, st, "d", "S", ignore[int], bus.AckWait(ackWait))
			pass(time.Second)
			return c
		}
		must(t, join(time.Minute).Drain(t.Context()))
		mustAckWait(t, b, time.Minute, "")
		c := join(20 * time.Second)
		mustAckWait(t, b, 20*time.Second, "")
		join(40 * time.Second)
		mustAckWait(t, b, 40*time.Second, "")

		gone := join(10 * time.Second)
		mustAckWait(t, b, 40*time.Second, "10s")
		must(t, gone.Drain(t.Context()))
		pass(time.Minute)
		mustAckWait(t, b, 40*time.Second, "10s")
		join(40 * time.Second) // called off
		mustAckWait(t, b, 40*time.Second, "")

		join(10 * time.Second)
		join(5 * time.Second) // the later one counts
		mustAckWait(t, b, 40*time.Second, "5s")
		pass(time.Minute)
		mustAckWait(t, b, 5*time.Second, "")
		must(t, c.Drain(t.Context()))
	})
}
