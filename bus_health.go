package bus

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/internal/plural"
	"github.com/omnibus-go/bus/stats"
)

// minJudgedCalls is from how many handler calls on the share of failures is judged.
const minJudgedCalls = 20

// Health checks the connection, the embedded server with its streams, the subscriptions,
// responders and consumers. It makes one round trip to the server, for at most ctx or the
// timeout of the bus, and once for each connection another one, for at most a second. It is meant for readiness probes. health.Failed means that messages
// cannot be sent now, or not to all streams since a switch home has failed, or that the bus is
// stopping. health.Degraded means that something needs
// attention, for example that a consumer gets no messages or cannot store a dead letter, or that
// the user of the connection may not receive replies. A
// leaf link that is down is neither: an edge works without it. Leaf of the report has its state.
func (b *Bus) Health(ctx context.Context) health.Report {
	if ctx == nil {
		ctx = context.Background()
	}
	r := health.Report{Problems: []health.Problem{}} // "[]" in JSON
	if b.isZero() || !b.core.Link.Open() {
		r.Add(health.Failed, "connection", "the bus is closed")
		return r
	}
	local := b.local.Load()
	r.Embedded = local != nil
	if b.core.Link.Conn().IsConnected() {
		r.Server = b.core.Link.Describe()
	}
	select {
	case <-b.core.Stopping:
		r.Add(health.Failed, "bus", "it is stopping")
	default:
	}
	b.checkConnection(ctx, &r)
	if local != nil {
		if err := local.health(); err != nil {
			r.Add(health.Failed, "server", "%v", err)
		}
		var mixed error
		if r.Leaf, mixed = local.link(); mixed != nil {
			r.Add(health.Degraded, "leaf", "%v", mixed)
		}
	}
	if lost := b.lostStore(0); lost != nil {
		r.Add(health.Failed, "store", "%s", inner(lost))
	}
	if fenced := b.undo.Fenced(); fenced != nil {
		r.Add(health.Failed, "store", "%s", inner(fenced))
	}
	if hindered := b.undo.Hindered(); hindered != nil {
		r.Add(health.Degraded, "store", "%v", hindered)
	}
	b.checkStorage(&r)
	b.checkLoad(&r)
	return r
}

// checkStorage reports that streams have no room, or soon have none.
func (b *Bus) checkStorage(r *health.Report) {
	if err := b.capacity.Err(); err != nil {
		r.Add(health.Degraded, "store", "%s", inner(b.storeFullError(err)))
		return
	}
	if use, ok := b.fullest(); ok && ratio(use.used, use.limit) > b.cfg.thresholds.StoreRatio {
		r.Add(health.Degraded, "store", "%s; %s", use, storeRemedy)
	}
}

// checkConnection reports a lost or slow connection.
func (b *Bus) checkConnection(ctx context.Context, r *health.Report) {
	switch nc := b.core.Link.Conn(); {
	case nc.IsClosed():
		r.Add(health.Failed, "connection", "it was closed, and does not come back")
		return
	case !nc.IsConnected():
		r.Add(health.Failed, "connection", "disconnected from the server; it comes back by itself")
		return
	}
	began := time.Now()
	if err := b.core.Link.Flush(ctx, b.core.Timeout); err != nil {
		r.Add(health.Failed, "connection", "no round trip to the server: %v", translate(err))
		return
	}
	r.RTT = time.Since(began)
	if r.RTT > b.cfg.thresholds.SlowRTT {
		r.Add(health.Degraded, "connection", "a round trip took %v, more than %v", r.RTT, b.cfg.thresholds.SlowRTT)
	}
	if err := b.core.Link.ProveReplies(ctx); err != nil {
		r.Add(health.Degraded, "connection", "replies cannot come, for which Request, PublishTo, streams and consumers wait: %s", inner(translate(err)))
	}
}

// checkLoad reports a full buffer, and what is wrong with subscriptions and consumers.
func (b *Bus) checkLoad(r *health.Report) {
	t := b.cfg.thresholds
	if used := float64(b.async.Pending()) / float64(b.cfg.publish.bufferSize); used > t.PendingRatio {
		r.Add(health.Degraded, "publisher", "the buffer of PublishAsync is %.0f %% full", 100*used)
	}
	var live []stats.Subscription
	for _, l := range b.loads() {
		live = append(live, l.stats)
		checkPart(r, t, l)
	}
	for _, err := range b.retired.lostExcept(live) {
		r.Add(health.Degraded, "consumer", "%s; nobody here handles its messages", inner(err))
	}
}

// load is the state of a subscription, responder or consumer, for Health.
type load struct {
	stats         stats.Subscription
	used          float64 // of its pending limits
	failed, calls int64   // of the latest handler calls
	stalled       error   // why it gets no messages; nil where it does
	refused       error   // which permission of the library's own messages is missing; nil if none
	deadLetter    error   // why its latest dead letter could not be stored; nil if it was
}

// loads returns the state of all live ones, in the order of Stats.
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

// load returns the state of a handler with the statistics s.
func (r *handlerCall) load(s stats.Subscription) load {
	l := load{stats: s}
	l.failed, l.calls = r.counters.Latest.Recent(s.Handled + s.HandlerErrors)
	return l
}

// checkPart adds what is wrong with one subscription, responder or consumer.
func checkPart(r *health.Report, t health.Thresholds, l load) {
	part, name := "subscription", l.stats.Subject
	if l.stats.Durable != "" {
		part, name = "consumer", fmt.Sprintf("%s of stream %s, %s", l.stats.Durable, l.stats.Stream, l.stats.Subject)
	}
	if l.used > t.PendingRatio {
		r.Add(health.Degraded, part, "%s: the messages that wait (%d) use %.0f %% of its pending limits", name, l.stats.Pending, 100*l.used)
	}
	if l.calls >= minJudgedCalls && float64(l.failed)/float64(l.calls) > t.ErrorRatio {
		r.Add(health.Degraded, part, "%s: %d of %d handler calls failed", name, l.failed, l.calls)
	}
	if t.OldestAge > 0 && l.stats.OldestAge > t.OldestAge {
		r.Add(health.Degraded, part, "%s: it is %s behind, the oldest is %v old", name, plural.Of(l.stats.Lag, "message", "messages"), l.stats.OldestAge.Round(time.Millisecond))
	}
	if l.stats.Longest.Duration > t.HandlerTime {
		r.Add(health.Degraded, part, "%s: a handler has not returned: %s", name, l.stats.Longest)
	}
	if l.stalled != nil {
		r.Add(health.Degraded, part, "%s: it gets no messages: %s", name, inner(l.stalled))
	}
	if l.refused != nil {
		r.Add(health.Degraded, part, "%s: the server refuses what it needs: %s", name, inner(l.refused))
	}
	if l.deadLetter != nil {
		r.Add(health.Degraded, part, "%s: a dead letter could not be stored, the consumer tries again: %s", name, inner(l.deadLetter))
	}
}
