package bus

import (
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/registry"
	"github.com/omnibus-go/bus/internal/telemetry"
)

// Latency summarises how long handler calls took. The quantiles are exact to
// about 6 %. Of fast subscriptions only a sample of the calls is timed: the first
// 64 and then one in 16.
type Latency struct {
	Samples            int64
	P50, P90, P99, Max time.Duration
}

// SubscriptionStats is what one subscription, responder or consumer has done.
type SubscriptionStats struct {
	Subject       string
	Queue         string // queue group; empty without one
	Stream        string // of a consumer
	Durable       string // of a consumer
	Received      int64  // messages given to the handler
	Handled       int64  // handler calls that returned nil
	HandlerErrors int64  // handler calls that failed, panics included
	Panics        int64
	Dropped       int64 // messages lost at the pending limits
	Redelivered   int64 // of a consumer: messages the server had sent before
	InFlight      int   // handler calls that run now
	Pending       int   // messages in this process that wait for the handler
	PendingBytes  int
	Latency       Latency
}

// Stats is what a bus has done since it began. Its sums include subscriptions
// that have ended; Subscriptions lists the live ones.
type Stats struct {
	Published      int64 // messages sent, stored or not, without requests
	PublishedBytes int64 // their payloads as sent
	PublishFailed  int64 // messages refused, or not sent
	Captured       int64 // Publish into subjects that a known stream stores
	AsyncPending   int   // messages in PublishAsync's buffer
	Requests       int64
	RequestErrors  int64 // requests without a reply, or with an error as reply
	Received       int64
	Handled        int64
	HandlerErrors  int64
	Dropped        int64 // messages lost by slow subscriptions
	Unrouted       int64 // messages that no handler of a Mux was for
	InFlight       int
	Disconnects    int64
	Reconnects     int64
	Events         int64 // reported to the log and WithEvents
	// CompressionRatio is the size of the payloads that were compressed before
	// by that after, so 3 means a third is left; 0 when there were none.
	CompressionRatio float64
	Subscriptions    []SubscriptionStats
}

// Stats returns the counters of the bus. They are read one after another while
// it runs, so their sums may differ by a few messages.
func (b *Bus) Stats() Stats {
	c := &b.counters
	s := Stats{
		Published: c.Published.Load(), PublishedBytes: c.PublishedBytes.Load(), PublishFailed: c.PublishFailed.Load(),
		Captured: c.Captured.Load(), AsyncPending: b.async.Pending(),
		Requests: c.Requests.Load(), RequestErrors: c.RequestErrors.Load(), Unrouted: c.Unrouted.Load(),
		Disconnects: c.Disconnects.Load(), Reconnects: c.Reconnects.Load(), Events: c.Events.Load(),
	}
	if after := c.CompressedBytes.Load(); after > 0 {
		s.CompressionRatio = float64(c.RawBytes.Load()) / float64(after)
	}
	for _, m := range b.registry.Members() {
		if live, ok := m.(statser); ok {
			s.Subscriptions = append(s.Subscriptions, live.stats())
		}
	}
	for _, sub := range s.Subscriptions {
		s.add(sub)
	}
	s.add(b.retired.total())
	return s
}

// retire takes a member that has ended off the list and keeps its sums.
func (b *Bus) retire(m interface {
	registry.Member
	statser
}) {
	b.registry.Remove(m)
	b.retired.add(m.stats())
}

func (s *Stats) add(sub SubscriptionStats) {
	s.Received += sub.Received
	s.Handled += sub.Handled
	s.HandlerErrors += sub.HandlerErrors
	s.Dropped += sub.Dropped
	s.InFlight += sub.InFlight
}

// statser is a member of the bus that has statistics.
type statser interface{ stats() SubscriptionStats }

// retired adds up what ended subscriptions had done.
type retired struct {
	mu  sync.Mutex
	sum SubscriptionStats
}

func (r *retired) total() SubscriptionStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sum
}

func (r *retired) add(s SubscriptionStats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Received += s.Received
	r.sum.Handled += s.Handled
	r.sum.HandlerErrors += s.HandlerErrors
	r.sum.Dropped += s.Dropped
}

// runs is what counts the handler calls of a subscription.
type runs interface {
	Begun() int64
	Ended() int64
}

// stats reads the receiver's own counters and those of its runs.
func (r *receiver) stats(calls runs) SubscriptionStats {
	c := &r.counters
	ended, failed := calls.Ended(), c.Errors.Load()
	return SubscriptionStats{
		Subject: r.pattern, Queue: r.group,
		Received: calls.Begun(), Handled: max(ended-failed, 0), HandlerErrors: failed,
		Panics: c.Panics.Load(), Redelivered: c.Redelivered.Load(), Latency: latencyOf(c.Latency.Summary()),
	}
}

func latencyOf(s telemetry.Summary) Latency {
	return Latency{Samples: s.Count, P50: s.P50, P90: s.P90, P99: s.P99, Max: s.Max}
}
