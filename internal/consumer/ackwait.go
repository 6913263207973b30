package consumer

import (
	"context"
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/jserr"
)

// The server applies a new AckWait at once to the messages that processes hold. If it is
// shorter, they must signal more often before that: see intake.AnnouncedAckWait. So a longer
// AckWait is set at once, and a shorter one in two steps. A crash between the two does no harm:
// the processes signal more often than they need to, until the next Consume.
//
// S-retry has a consumer with the same AckWait. It never has a shorter one than the durable:
// the processes know that of the durable.

// setAckWait sets the AckWait that is asked for. It returns true if lowerAckWait must do the
// rest. The consumer in S-retry has the longer one of the two already.
func (c *Consumer) setAckWait(ctx context.Context, info *jetstream.ConsumerInfo) (config jetstream.ConsumerConfig, lower bool, err error) {
	config = info.Config // a copy
	want := c.cfg.AckWait
	_, announced := config.Metadata[intake.AnnouncedAckWait]
	switch {
	case want == 0, want == config.AckWait && !announced:
		return config, false, nil
	case want < config.AckWait && !c.isFree(ctx, info):
		config.Metadata = maps.Clone(config.Metadata)
		if config.Metadata == nil {
			config.Metadata = make(map[string]string)
		}
		config.Metadata[intake.AnnouncedAckWait] = want.String()
		lower = true
	default:
		config = withAckWait(config, want)
		if err := c.side.SetAckWait(ctx, want); err != nil {
			return config, false, err
		}
	}
	if c.did.before == nil {
		c.did.before = &info.Config // undo
	}
	info, err = update(ctx, &c.cfg, config)
	if err != nil {
		return config, false, err
	}
	return info.Config, lower, nil
}

// isFree reports whether no process takes part in the durable: none has a message, and none
// waits for one, as each does that has room.
func (c *Consumer) isFree(ctx context.Context, info *jetstream.ConsumerInfo) bool {
	retries, err := c.side.Retries.Consumer(ctx, c.cfg.Durable)
	return err == nil && info.NumWaiting+info.NumAckPending+retries.CachedInfo().NumWaiting+retries.CachedInfo().NumAckPending == 0
}

// withAckWait returns a configuration with an AckWait and without an announcement.
func withAckWait(config jetstream.ConsumerConfig, ackWait time.Duration) jetstream.ConsumerConfig {
	config.AckWait = ackWait
	config.Metadata = maps.Clone(config.Metadata)
	delete(config.Metadata, intake.AnnouncedAckWait)
	return config
}

// lowerAckWait lowers AckWait to what was announced, when everybody knows. It ends with the
// consumer. If the connection was lost meanwhile, or the server cannot be asked, it waits once
// more.
func (c *Consumer) lowerAckWait() {
	defer close(c.lowered)
	for {
		connections := c.cfg.Core.Link.Conn().Stats().Reconnects
		if sleep(c.life, intake.AckWaitNotice) != nil {
			return
		}
		if connections != c.cfg.Core.Link.Conn().Stats().Reconnects {
			continue
		}
		if err := c.applyAnnounced(); err == nil || jserr.IsAbsent(err) {
			return
		}
	}
}

// applyAnnounced sets the AckWait that this process has announced, unless somebody has set or
// announced another one since.
func (c *Consumer) applyAnnounced() error {
	ctx, done := c.cfg.Core.Bound(c.life)
	defer done()
	con, err := c.cfg.Core.JetStream.Consumer(ctx, c.cfg.Stream.Name, c.cfg.Durable)
	if err != nil {
		return err
	}
	config := con.CachedInfo().Config
	if config.Metadata[intake.AnnouncedAckWait] != c.cfg.AckWait.String() {
		return nil
	}
	if err := c.side.SetAckWait(ctx, c.cfg.AckWait); err != nil {
		return err
	}
	_, err = update(ctx, &c.cfg, withAckWait(config, c.cfg.AckWait))
	return err
}
