package consumer

import (
	"context"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// isRemoved reports whether the stream has removed d, which waited for its next attempt. It
// counts and reports that. If nobody can say, d is not removed: a message is rather handled
// once too often than not at all. The intake calls it on a worker.
func (c *Consumer) isRemoved(ctx context.Context, d *wire.Delivery) bool {
	ctx, cancel := c.cfg.Core.WithTimeout(ctx)
	defer cancel()
	_, found, err := c.cfg.Core.Outlet.LookUp(ctx, d.Stored.Stream, outlet.Query{Sequence: d.Stored.Sequence})
	if found || err != nil || !c.shouldHave(ctx, d) {
		return false
	}
	c.cfg.Handler.Counters.Removed.Add(1)
	e := c.event(event.Removed, d, nil)
	e.Attempt--
	c.cfg.Report(e)
	return true
}

// shouldHave reports whether the stream would have d if nobody had removed it. It would not if it
// was deleted and created again since d was stored. Nor does it have a message that waits
// in S-retry, if it keeps no acknowledged messages.
func (c *Consumer) shouldHave(ctx context.Context, d *wire.Delivery) bool {
	st, err := c.cfg.Core.JetStream.Stream(ctx, d.Stored.Stream)
	if err != nil || createdAt(st.CachedInfo()).After(d.Stored.Time) {
		return false
	}
	return d.Stored.Source == 0 || st.CachedInfo().Config.Retention == jetstream.LimitsPolicy
}

// createdAt returns when a stream was created. A stream that was moved to another server was
// created there later; its incarnation is the first time.
func createdAt(info *jetstream.StreamInfo) time.Time {
	nanoseconds, err := strconv.ParseInt(sidestream.IncarnationOf(info), 36, 64)
	if err != nil {
		return info.Created
	}
	return time.Unix(0, nanoseconds)
}
