package bus

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/lifecycle"
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
	Owner         bool   // of a consumer with keys that other processes can share: this one takes the messages in, for all
	Received      int64  // messages given to the handler
	Handled       int64  // handler calls that returned nil
	HandlerErrors int64  // handler calls that failed, panics included
	Postponed     int64  // of a consumer: handler calls that did not try the message, see Postpone
	Panics        int64
	Dropped       int64 // messages lost at the pending limits
	Redelivered   int64 // of a consumer: messages the server had sent before
	DeadLetters   int64 // of a consumer: messages it gave up
	InFlight      int   // handler calls that run now
	// Lag is how many messages of the stream a consumer has not finished, in all its
	// members, and OldestAge the age of the oldest of them, 0 where that is not known
	// yet. What other members do is known as it was up to 10 s ago, or a minute where
	// there was nothing to do; Consumer.Lag asks.
	Lag          int
	OldestAge    time.Duration
	Longest      Running // of a consumer: the handler call that has been running for longest
	Pending      int     // messages in this process that wait for the handler
	PendingBytes int
	Latency      Latency
}

// Stats is what a bus has done since it began. Its sums include subscriptions
// that have ended; Subscriptions lists the live ones, those without a stream
// first, sorted by stream, durable, subject and queue. In JSON a time.Duration is a
// number of nanoseconds.
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
	Postponed      int64 // handler calls that did not try their message
	Dropped        int64 // messages lost by slow subscriptions
	DeadLetters    int64 // messages that consumers gave up
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
	if b.isZero() {
		return Stats{}
	}
	c := &b.core.Counters
	s := Stats{
		Published: c.Published.Load(), PublishedBytes: c.PublishedBytes.Load(), PublishFailed: c.PublishFailed.Load(),
		Captured: c.Captured.Load(), AsyncPending: b.async.Pending(),
		Requests: c.Requests.Load(), RequestErrors: c.RequestErrors.Load(), Unrouted: c.Unrouted.Load(),
		Disconnects: c.Disconnects.Load(), Reconnects: c.Reconnects.Load(), Events: c.Events.Load(),
	}
	if after := c.CompressedBytes.Load(); after > 0 {
		s.CompressionRatio = float64(c.RawBytes.Load()) / float64(after)
	}
	s.addSubscriptions(b)
	return s
}

// addSubscriptions lists the live subscriptions and sums up all there ever were.
// Meanwhile none moves from the ones to the others.
func (s *Stats) addSubscriptions(b *Bus) {
	b.retired.mu.Lock()
	defer b.retired.mu.Unlock()
	for _, m := range b.registry.Members() {
		if live, ok := m.(statser); ok {
			s.Subscriptions = append(s.Subscriptions, live.stats())
		}
	}
	slices.SortFunc(s.Subscriptions, compareStats)
	for _, sub := range s.Subscriptions {
		s.add(sub)
	}
	s.add(b.retired.totalLocked())
}

// compareStats is the order of Stats.Subscriptions; of those that have the same
// name the one that has done more goes first.
func compareStats(a, b SubscriptionStats) int {
	return cmp.Or(strings.Compare(a.Stream, b.Stream), strings.Compare(a.Durable, b.Durable),
		strings.Compare(a.Subject, b.Subject), strings.Compare(a.Queue, b.Queue), cmp.Compare(b.Received, a.Received))
}

// retire takes a member that has ended off the list and keeps its sums.
func (b *Bus) retire(m interface {
	lifecycle.Member
	statser
}) {
	b.retired.mu.Lock()
	defer b.retired.mu.Unlock()
	b.registry.Remove(m)
	b.retired.addLocked(m)
	if c, ok := m.(*Consumer); ok {
		b.retired.noteLocked(durableName{c.stream, c.durable}, c.Err())
	}
}

func (s *Stats) add(sub SubscriptionStats) {
	s.Received += sub.Received
	s.Handled += sub.Handled
	s.HandlerErrors += sub.HandlerErrors
	s.Postponed += sub.Postponed
	s.Dropped += sub.Dropped
	s.DeadLetters += sub.DeadLetters
	s.InFlight += sub.InFlight
}

// statser is a member of the bus that has statistics.
type statser interface{ stats() SubscriptionStats }

// retired adds up what ended subscriptions had done.
type retired struct {
	mu   sync.Mutex
	sum  SubscriptionStats
	late []statser             // ended by a handler of their own, which is not counted yet
	lost map[durableName]error // why the latest consumer of the name ended by itself
}

type durableName struct{ stream, durable string }

// noteLocked notes why a consumer ended; nil if it was told to.
func (r *retired) noteLocked(name durableName, why error) {
	if why == nil {
		delete(r.lost, name)
		return
	}
	if r.lost == nil {
		r.lost = make(map[durableName]error)
	}
	r.lost[name] = why
}

// lostBeside returns why consumers ended by themselves that are not among the live
// ones again, in the order of their texts.
func (r *retired) lostBeside(live []load) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	lost := maps.Clone(r.lost)
	for _, l := range live {
		delete(lost, durableName{l.stats.Stream, l.stats.Durable})
	}
	return slices.SortedFunc(maps.Values(lost), func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
}

func (r *retired) totalLocked() SubscriptionStats {
	late := r.late
	r.late = nil
	for _, m := range late {
		r.addLocked(m)
	}
	total := r.sum
	for _, m := range r.late {
		total.add(m.stats())
	}
	return total
}

func (r *retired) addLocked(m statser) {
	if s := m.stats(); s.InFlight == 0 {
		r.sum.add(s)
	} else {
		r.late = append(r.late, m)
	}
}

// add adds what ended subscriptions still count for.
func (s *SubscriptionStats) add(more SubscriptionStats) {
	s.Received += more.Received
	s.Handled += more.Handled
	s.HandlerErrors += more.HandlerErrors
	s.Postponed += more.Postponed
	s.Dropped += more.Dropped
	s.DeadLetters += more.DeadLetters
	s.InFlight += more.InFlight
}

// runs is what counts the handler calls of a subscription.
type runs interface {
	Begun() int64
	Ended() int64
}

// stats reads the receiver's own counters and those of its runs.
func (r *handlerCall) stats(calls runs) SubscriptionStats {
	c := &r.counters
	ended, failed, postponed := calls.Ended(), c.Errors.Load(), c.Postponed.Load()
	return SubscriptionStats{
		Subject: r.pattern, Queue: r.group,
		Received: calls.Begun(), Handled: max(ended-failed-postponed, 0), HandlerErrors: failed, Postponed: postponed,
		Panics: c.Panics.Load(), Redelivered: c.Redelivered.Load(), DeadLetters: c.DeadLetters.Load(), Latency: latencyOf(c.Latency.Summary()),
	}
}

func latencyOf(s telemetry.Summary) Latency {
	return Latency{Samples: s.Count, P50: s.P50, P90: s.P90, P99: s.P99, Max: s.Max}
}
