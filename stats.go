package bus

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/stats"
)

// collect fills a Stats. It holds mu, so that no subscription is counted twice or missed.
func (r *retired) collect(c *telemetry.Bus, asyncPending int) stats.Bus {
	s := stats.Bus{
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
		addTo(&s, sub)
	}
	addTo(&s, r.totalLocked())
	return s
}

// live returns the statistics of the live subscriptions, responders and consumers.
func (r *retired) live() []stats.Subscription {
	all := []stats.Subscription{} // "[]" in JSON
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
func compareStats(a, b stats.Subscription) int {
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

func addTo(s *stats.Bus, sub stats.Subscription) {
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
type statser interface{ stats() stats.Subscription }

// durableMember is a consumer: a member with a durable.
type durableMember interface {
	// endedBy returns its names, and why it ended by itself, or nil.
	endedBy() (durableName, error)
}

// retired has the sums of ended subscriptions, and why consumers ended by themselves.
type retired struct {
	registry *lifecycle.Registry // of the live ones

	mu   sync.Mutex
	sum  stats.Subscription
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
func (r *retired) lostExcept(live []stats.Subscription) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	lost := maps.Clone(r.lost)
	for _, l := range live {
		delete(lost, durableName{l.Stream, l.Durable})
	}
	return slices.SortedFunc(maps.Values(lost), func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
}

// totalLocked returns the sums, with the handlers that have returned since.
func (r *retired) totalLocked() stats.Subscription {
	late := r.late
	r.late = nil
	for _, m := range late {
		r.addLocked(m)
	}
	total := r.sum
	for _, m := range r.late {
		addUp(&total, m.stats())
	}
	return total
}

// addLocked adds the statistics of m to the sums, or keeps m while its handlers run.
func (r *retired) addLocked(m statser) {
	if s := m.stats(); s.InFlight == 0 {
		addUp(&r.sum, s)
	} else {
		r.late = append(r.late, m)
	}
}

// addUp adds the numbers that count after the end of a subscription.
func addUp(s *stats.Subscription, more stats.Subscription) {
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
func (r *handlerCall) stats(calls callCounts) stats.Subscription {
	c := &r.counters
	ended, failed, postponed := calls.Ended(), c.Errors.Load(), c.Postponed.Load()
	return stats.Subscription{
		Subject: r.pattern, Queue: r.group,
		Received: calls.Begun(), Handled: max(ended-failed-postponed, 0), HandlerErrors: failed, Postponed: postponed,
		Panics: c.Panics.Load(), Redelivered: c.Redelivered.Load(), DeadLetters: c.DeadLetters.Load(), Removed: c.Removed.Load(), Latency: latencyOf(c.Latency.Summary()),
	}
}

func latencyOf(s telemetry.Summary) stats.Latency {
	return stats.Latency{Samples: s.Count, P50: s.P50, P90: s.P90, P99: s.P99, Max: s.Max}
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
