package bus

import (
	"context"
	"fmt"
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
	Part   string // "connection", "server", "subscription", "publisher"
	Reason string
}

// Report is what Health found.
type Report struct {
	Status   Status        // the worst of the problems'
	Problems []Problem     // empty when healthy
	Server   string        // URL and name of the server the bus is connected to
	Embedded bool          // the server is in this process
	RTT      time.Duration // of one round trip to the server; 0 when there was none
}

// HealthThresholds says when Health calls a bus degraded. Zero fields mean the
// defaults.
type HealthThresholds struct {
	SlowRTT      time.Duration // a round trip that takes longer; default 500 ms
	PendingRatio float64       // more of a subscription's pending limits, or of PublishAsync's buffer, in use; default 0.8
	ErrorRatio   float64       // more of a subscription's handler calls failed, of at least 20; default 0.5
}

// fewCalls is below how many handler calls the share of failures says nothing.
const fewCalls = 20

func defaultThresholds() HealthThresholds {
	return HealthThresholds{SlowRTT: 500 * time.Millisecond, PendingRatio: 0.8, ErrorRatio: 0.5}
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
	return t
}

// Health looks at the connection, the embedded server with its streams, and the
// subscriptions, and makes one round trip to the server, which ctx or the bus's
// timeout bounds. It is meant for readiness probes: Failed means that messages
// cannot be sent now.
func (b *Bus) Health(ctx context.Context) Report {
	if ctx == nil {
		ctx = context.Background()
	}
	if b == nil || !b.link.Open() {
		r := Report{}
		r.add(Failed, "connection", "the bus is closed")
		return r
	}
	r := Report{Server: b.link.Describe(), Embedded: b.engine != nil}
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
	if !b.link.Conn().IsConnected() {
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
	for _, m := range b.registry.Members() {
		if s, ok := m.(interface {
			load() (SubscriptionStats, float64)
		}); ok {
			stats, used := s.load()
			r.checkSubscription(t, stats, used)
		}
	}
}

func (r *Report) checkSubscription(t HealthThresholds, s SubscriptionStats, used float64) {
	if used > t.PendingRatio {
		r.add(Degraded, "subscription", "%s: the messages that wait (%d) use %.0f %% of its pending limits", s.Subject, s.Pending, 100*used)
	}
	if calls := s.Handled + s.HandlerErrors; calls >= fewCalls && float64(s.HandlerErrors)/float64(calls) > t.ErrorRatio {
		r.add(Degraded, "subscription", "%s: %d of %d handler calls failed", s.Subject, s.HandlerErrors, calls)
	}
}
