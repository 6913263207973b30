package bus

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Status is how well a bus or a part of it is.
type Status int

// The statuses, from best to worst.
const (
	Healthy  Status = iota // everything works
	Degraded               // it works, but something needs attention
	Failed                 // it cannot do its job now
)

func (s Status) String() string {
	switch s {
	case Healthy:
		return "healthy"
	case Degraded:
		return "degraded"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("Status(%d)", int(s))
}

// MarshalText writes the status as its word, so a Report can be served as JSON.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Problem is one reason why a bus is not healthy.
type Problem struct {
	Status Status // Degraded or Failed
	Part   string // "bus", "connection", "server", "publisher", "subscription" (responders too), "consumer"
	Reason string
}

// Report is what Health found. In JSON a time.Duration is a number of nanoseconds, and a
// Status its word.
type Report struct {
	Status   Status        // the worst of the problems'
	Problems []Problem     // empty when healthy
	Server   string        // URL and name of the server the bus is connected to; empty while it is not
	Embedded bool          // the server is in this process
	RTT      time.Duration // of one round trip to the server; 0 when there was none
}

// HealthThresholds says when Health calls a bus degraded. Zero fields mean the
// defaults.
type HealthThresholds struct {
	SlowRTT      time.Duration // a round trip that takes longer; default 500 ms
	PendingRatio float64       // more of a subscription's pending limits, or of PublishAsync's buffer, in use; default 0.8
	OldestAge    time.Duration // a consumer's oldest unfinished message is older; by default no age is too old
	ErrorRatio   float64       // more of the last 100 to 200 handler calls of a subscription, responder or consumer failed, or of all where there were fewer, but at least 20; default 0.5
	HandlerTime  time.Duration // a consumer's handler call that has been running for longer; default 5 minutes
}

// fewCalls is below how many handler calls the share of failures says nothing.
const fewCalls = 20

func defaultThresholds() HealthThresholds {
	return HealthThresholds{SlowRTT: 500 * time.Millisecond, PendingRatio: 0.8, ErrorRatio: 0.5, HandlerTime: 5 * time.Minute}
}

func (t HealthThresholds) withDefaults() HealthThresholds {
	d := defaultThresholds()
	if t.SlowRTT == 0 {
		t.SlowRTT = d.SlowRTT
	}
	if t.PendingRatio == 0 {
		t.PendingRatio = d.PendingRatio
	}
	if t.ErrorRatio == 0 {
		t.ErrorRatio = d.ErrorRatio
	}
	if t.HandlerTime == 0 {
		t.HandlerTime = d.HandlerTime
	}
	return t
}

// Health looks at the connection, the embedded server with its streams, the
// subscriptions, responders and consumers, and makes one round trip to the server,
// which ctx or the bus's timeout bounds. It is meant for readiness probes: Failed
// means that messages cannot be sent now, or will not be for long since the bus
// is stopping. Degraded may mean that a consumer gets no messages, or cannot write a
// dead letter.
func (b *Bus) Health(ctx context.Context) Report {
	if ctx == nil {
		ctx = context.Background()
	}
	r := Report{Problems: []Problem{}} // "[]" in JSON
	if b.none() || !b.link.Open() {
		r.add(Failed, "connection", "the bus is closed")
		return r
	}
	r.Embedded = b.engine != nil
	if b.link.Conn().IsConnected() {
		r.Server = b.link.Describe()
	}
	select {
	case <-b.state.stopping:
		r.add(Failed, "bus", "it is stopping")
	default:
	}
	b.checkConnection(ctx, &r)
	if b.engine != nil {
		if err := b.engine.health(); err != nil {
			r.add(Failed, "server", "%v", err)
		}
	}
	b.checkLoad(&r)
	return r
}

func (r *Report) add(s Status, part, format string, args ...any) {
	r.Problems = append(r.Problems, Problem{Status: s, Part: part, Reason: fmt.Sprintf(format, args...)})
	r.Status = max(r.Status, s)
}

func (b *Bus) checkConnection(ctx context.Context, r *Report) {
	switch nc := b.link.Conn(); {
	case nc.IsClosed():
		r.add(Failed, "connection", "it was closed, and does not come back")
		return
	case !nc.IsConnected():
		r.add(Failed, "connection", "disconnected from the server; it comes back by itself")
		return
	}
	began := time.Now()
	if err := b.link.Flush(ctx, b.cfg.timeout); err != nil {
		r.add(Failed, "connection", "no round trip to the server: %v", translate(err))
		return
	}
	r.RTT = time.Since(began)
	if r.RTT > b.cfg.thresholds.SlowRTT {
		r.add(Degraded, "connection", "a round trip took %v, more than %v", r.RTT, b.cfg.thresholds.SlowRTT)
	}
}

func (b *Bus) checkLoad(r *Report) {
	t := b.cfg.thresholds
	if used := float64(b.async.Pending()) / float64(b.cfg.async.Size); used > t.PendingRatio {
		r.add(Degraded, "publisher", "the buffer of PublishAsync is %.0f %% full", 100*used)
	}
	loads := b.loads()
	for _, l := range loads {
		r.check(t, l)
	}
	for _, err := range b.retired.lostBeside(loads) {
		r.add(Degraded, "consumer", "%s; nobody here handles its messages", inner(err))
	}
}

// load is how a subscription, responder or consumer stands.
type load struct {
	stats         SubscriptionStats
	used          float64 // of its pending limits
	failed, calls int64   // of the latest handler calls
	stalled       error   // why it gets no messages; nil where it does
	unburied      error   // why its latest dead letter could not be written; nil where it was
}

// loads returns the live ones, in the order of Stats.
func (b *Bus) loads() []load {
	var loads []load
	for _, m := range b.registry.Members() {
		if l, ok := m.(interface{ load() load }); ok {
			loads = append(loads, l.load())
		}
	}
	slices.SortFunc(loads, func(a, b load) int { return compareStats(a.stats, b.stats) })
	return loads
}

// load returns what the receiver knows.
func (r *receiver) load(s SubscriptionStats) load {
	l := load{stats: s}
	l.failed, l.calls = r.counters.Latest.Of(s.Handled + s.HandlerErrors)
	return l
}

func (r *Report) check(t HealthThresholds, l load) {
	part, name := "subscription", l.stats.Subject
	if l.stats.Durable != "" {
		part, name = "consumer", fmt.Sprintf("%s of stream %s, %s", l.stats.Durable, l.stats.Stream, l.stats.Subject)
	}
	if l.used > t.PendingRatio {
		r.add(Degraded, part, "%s: the messages that wait (%d) use %.0f %% of its pending limits", name, l.stats.Pending, 100*l.used)
	}
	if l.calls >= fewCalls && float64(l.failed)/float64(l.calls) > t.ErrorRatio {
		r.add(Degraded, part, "%s: %d of %d handler calls failed", name, l.failed, l.calls)
	}
	if t.OldestAge > 0 && l.stats.OldestAge > t.OldestAge {
		r.add(Degraded, part, "%s: it is %d messages behind, the oldest is %v old", name, l.stats.Lag, l.stats.OldestAge.Round(time.Millisecond))
	}
	if l.stats.Longest.For > t.HandlerTime {
		r.add(Degraded, part, "%s: a handler has not returned: %s", name, l.stats.Longest)
	}
	if l.stalled != nil {
		r.add(Degraded, part, "%s: it gets no messages: %s", name, inner(l.stalled))
	}
	if l.unburied != nil {
		r.add(Degraded, part, "%s: a dead letter could not be written, which is tried again: %s", name, inner(l.unburied))
	}
}
