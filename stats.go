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

// Latency says how long handler calls took. The quantiles are exact to about 6 %. Of fast
// subscriptions the bus times only a sample of the calls: the first 64, then one in 16.
type Latency struct {
	Samples            int64
	P50, P90, P99, Max time.Duration
}

// SubscriptionStats has the statistics of one subscription, responder or consumer.
type SubscriptionStats struct {
	Subject       string
	Queue         string // queue group; empty without one
	Stream        string // of a consumer
	Durable       string // of a consumer
	Owner         bool   // of a consumer with keys that processes share: this process owns the durable and gives messages to the others
	Received      int64  // messages given to the handler
	Handled       int64  // handler calls that returned nil
	HandlerErrors int64  // handler calls that failed, panics included
	Postponed     int64  // of a consumer: handler calls that returned Postpone
	Panics        int64
	Dropped       int64 // messages lost at the pending limits
	Redelivered   int64 // of a consumer: messages that the server had delivered before
	DeadLetters   int64 // of a consumer: messages that became dead letters
	Removed       int64 // of a consumer: messages that were removed from the stream before their next attempt, so that there was none
	InFlight      int   // handler calls that run now
	// Lag is how many messages of the stream the consumer has not finished, in all
	// processes. OldestAge is the age of the oldest of them, or 0 if it is not known yet. The
	// numbers are up to 10 s old, or up to a minute while there was nothing to do.
	// Consumer.Lag asks the server.
	Lag          int
	OldestAge    time.Duration
	Longest      Running // of a consumer: the handler call that has run for longest
	Pending      int     // messages in this process that wait for the handler
	PendingBytes int
	Latency      Latency
}

// Stats has the statistics of a bus since it was opened. The sums include subscriptions that
// have ended. Subscriptions lists the live ones, sorted by stream, durable, subject and queue;
// those without a stream come first. In JSON a time.Duration is a number of nanoseconds.
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
	Postponed      int64 // handler calls that returned Postpone
	Dropped        int64 // messages lost by slow subscriptions
	DeadLetters    int64 // messages that became dead letters
	Removed        int64 // messages that their stream removed before their next attempt
	Unrouted       int64 // messages for which a Mux had no handler
	InFlight       int
	Disconnects    int64
	Reconnects     int64
	Events         int64 // reported to the log and WithEvents
	// CompressionRatio is the size of the compressed payloads before compression, divided by
	// their size after it: 3 means that a third is left. It is 0 if there were none.
	CompressionRatio float64
	Subscriptions    []SubscriptionStats
}

// collect fills a Stats. It holds mu, so that no subscription is counted twice or missed.
func (r *retired) collect(c *telemetry.Bus, asyncPending int) Stats {
	s := Stats{
		Published: c.Published.Load(), PublishedBytes: c.PublishedBytes.Load(), PublishFailed: c.PublishFailed.Load(),
		Captured: c.Captured.Load(), AsyncPending: asyncPending,
		Requests: c.Requests.Load(), RequestErrors: c.RequestErrors.Load(), Unrouted: c.Unrouted.Load(),
		Disconnects: c.Disconnects.Load(), Reconnects: c.Reconnects.Load(), Events: c.Events.Load(),
	}
	if after := c.CompressedBytes.Load(); after > 0 {
		s.CompressionRatio = float64(c.RawBytes.Load()) / float64(after)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Subscriptions = r.live()
	for _, sub := range s.Subscriptions {
		s.add(sub)
	}
	s.add(r.totalLocked())
	return s
}

// live returns the statistics of the live subscriptions, responders and consumers.
func (r *retired) live() []SubscriptionStats {
	var all []SubscriptionStats
	for _, m := range r.registry.Members() {
		if live, ok := m.(statser); ok {
			all = append(all, live.stats())
		}
	}
	slices.SortFunc(all, compareStats)
	return all
}

// compareStats orders Stats.Subscriptions. Of two with the same names the one that received
// more comes first.
func compareStats(a, b SubscriptionStats) int {
	return cmp.Or(strings.Compare(a.Stream, b.Stream), strings.Compare(a.Durable, b.Durable),
		strings.Compare(a.Subject, b.Subject), strings.Compare(a.Queue, b.Queue), cmp.Compare(b.Received, a.Received))
}

// retire removes a member that has ended from the registry and keeps its sums. Drain of the
// member calls it.
func (r *retired) retire(m interface {
	lifecycle.Member
	statser
}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.registry.Remove(m)
	r.addLocked(m)
	if c, ok := m.(durableMember); ok {
		r.recordEndLocked(c.endedBy())
	}
}

func (s *Stats) add(sub SubscriptionStats) {
	s.Received += sub.Received
	s.Handled += sub.Handled
	s.HandlerErrors += sub.HandlerErrors
	s.Postponed += sub.Postponed
	s.Dropped += sub.Dropped
	s.DeadLetters += sub.DeadLetters
	s.Removed += sub.Removed
	s.InFlight += sub.InFlight
}

// statser is a member of the registry that has statistics.
type statser interface{ stats() SubscriptionStats }

// durableMember is a consumer: a member with a durable.
type durableMember interface {
	// endedBy returns its names, and why it ended by itself, or nil.
	endedBy() (durableName, error)
}

// retired has the sums of ended subscriptions, and why consumers ended by themselves.
type retired struct {
	registry *lifecycle.Registry // of the live ones

	mu   sync.Mutex
	sum  SubscriptionStats
	late []statser             // ended while handlers were running, which are not counted yet
	lost map[durableName]error // why the latest consumer of the name ended by itself
}

// durableName names a durable of the server.
type durableName struct{ stream, durable string }

// recordEndLocked records why a consumer ended by itself; nil if the program ended it.
func (r *retired) recordEndLocked(name durableName, why error) {
	if why == nil {
		delete(r.lost, name)
		return
	}
	if r.lost == nil {
		r.lost = make(map[durableName]error)
	}
	r.lost[name] = why
}

// lostExcept returns why consumers ended by themselves, sorted by text, except those of
// which a live consumer has the same names.
func (r *retired) lostExcept(live []SubscriptionStats) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	lost := maps.Clone(r.lost)
	for _, l := range live {
		delete(lost, durableName{l.Stream, l.Durable})
	}
	return slices.SortedFunc(maps.Values(lost), func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
}

// totalLocked returns the sums, with the handlers that have returned since.
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

// addLocked adds the statistics of m to the sums, or keeps m while its handlers run.
func (r *retired) addLocked(m statser) {
	if s := m.stats(); s.InFlight == 0 {
		r.sum.add(s)
	} else {
		r.late = append(r.late, m)
	}
}

// add adds the numbers that count after the end of a subscription.
func (s *SubscriptionStats) add(more SubscriptionStats) {
	s.Received += more.Received
	s.Handled += more.Handled
	s.HandlerErrors += more.HandlerErrors
	s.Postponed += more.Postponed
	s.Dropped += more.Dropped
	s.DeadLetters += more.DeadLetters
	s.Removed += more.Removed
	s.InFlight += more.InFlight
}

// callCounts counts the handler calls of a subscription.
type callCounts interface {
	Begun() int64
	Ended() int64
}

// stats returns the counters of the handler and of its calls.
func (r *handlerCall) stats(calls callCounts) SubscriptionStats {
	c := &r.counters
	ended, failed, postponed := calls.Ended(), c.Errors.Load(), c.Postponed.Load()
	return SubscriptionStats{
		Subject: r.pattern, Queue: r.group,
		Received: calls.Begun(), Handled: max(ended-failed-postponed, 0), HandlerErrors: failed, Postponed: postponed,
		Panics: c.Panics.Load(), Redelivered: c.Redelivered.Load(), DeadLetters: c.DeadLetters.Load(), Removed: c.Removed.Load(), Latency: latencyOf(c.Latency.Summary()),
	}
}

func latencyOf(s telemetry.Summary) Latency {
	return Latency{Samples: s.Count, P50: s.P50, P90: s.P90, P99: s.P99, Max: s.Max}
}

// observe has the metrics report how far the consumers are behind, until stop is called.
func (r *retired) observe(t *telemetry.Telemetry) (stop func(), err error) {
	return t.ObserveConsumers(func() []telemetry.Consumer {
		var all []telemetry.Consumer
		for _, s := range r.live() {
			if s.Durable != "" {
				all = append(all, telemetry.Consumer{Template: s.Subject, Stream: s.Stream, Group: s.Durable, Lag: s.Lag, OldestAge: s.OldestAge})
			}
		}
		return all
	})
}
