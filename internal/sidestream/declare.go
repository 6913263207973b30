package sidestream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/deadline"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/serverversion"
	"github.com/omnibus-go/bus/internal/wire"
	"github.com/omnibus-go/bus/switchover"
)

// ForeignStreamError is returned when a stream with the name of a side stream exists and
// does not belong to the library.
type ForeignStreamError struct {
	Stream     string // S
	Side       string // the stream with the name of a side stream of S
	Have, Want string // subjects and retention of Side
}

func (e *ForeignStreamError) Error() string {
	return fmt.Sprintf("stream %q does not belong to the library: it has %s, not %s", e.Side, e.Have, e.Want)
}

// DeclareKeys makes sure that S-keys exists. Errors are those of Open.
func DeclareKeys(ctx context.Context, c *core.Core, stream Stream) error {
	_, err := declare(ctx, c, stream, jetstream.StreamConfig{Name: KeysStream(stream.Name),
		Subjects: []string{Pattern(Keys, stream.Name)}, MaxMsgsPerSubject: 1})
	return err
}

// declareDead makes sure that S-dead exists.
func declareDead(ctx context.Context, c *core.Core, stream Stream) (jetstream.Stream, error) {
	return declare(ctx, c, stream, jetstream.StreamConfig{Name: DeadStream(stream.Name),
		Subjects: []string{Pattern(Dead, stream.Name)}, MaxMsgsPerSubject: 1, AllowDirect: true})
}

// declareRetry makes sure that S-retry exists. A server that knows no schedules (before
// 2.12) makes it without them.
func declareRetry(ctx context.Context, c *core.Core, stream Stream) (jetstream.Stream, error) {
	want := jetstream.StreamConfig{Name: RetryStream(stream.Name), Retention: jetstream.WorkQueuePolicy, AllowMsgSchedules: true,
		MaxConsumers: stream.MaxConsumers, ConsumerLimits: stream.ConsumerLimits,
		Subjects: []string{Pattern(Retry, stream.Name), Pattern(Later, stream.Name), Pattern(Note, stream.Name)}}
	st, err := declare(ctx, c, stream, want)
	if jserr.Is(err, jserr.InvalidJSON, jserr.InvalidConfig) {
		want.AllowMsgSchedules = false
		st, err = declare(ctx, c, stream, want)
	}
	if err == nil {
		st = allowConsumers(ctx, c, st, stream)
	}
	if err != nil || !want.AllowMsgSchedules {
		return st, err
	}
	return allowSchedules(ctx, c, st)
}

// allowConsumers raises the limit of consumers of S-retry to that of the stream. Servers before
// 2.12 cannot. Where it fails, the last durables are refused.
func allowConsumers(ctx context.Context, c *core.Core, st jetstream.Stream, stream Stream) jetstream.Stream {
	have := st.CachedInfo().Config
	if have.MaxConsumers >= stream.MaxConsumers || stream.MaxConsumers <= 0 {
		return st
	}
	have.MaxConsumers = stream.MaxConsumers
	updated, err := c.JetStream.UpdateStream(ctx, have)
	if err != nil {
		c.Logger.Warn("the stream cannot have as many consumers as the one that it belongs to", "stream", have.Name, "error", err)
		return st
	}
	return updated
}

// allowSchedules switches schedules on in an S-retry that an older server made. Where that
// fails, retries go on to wait in the process.
func allowSchedules(ctx context.Context, c *core.Core, st jetstream.Stream) (jetstream.Stream, error) {
	have := st.CachedInfo().Config
	if have.AllowMsgSchedules || !c.Link.Server().Has(serverversion.Schedules) {
		return st, nil
	}
	have.AllowMsgSchedules = true
	updated, err := c.JetStream.UpdateStream(ctx, have)
	if err != nil {
		c.Logger.Warn("retries wait in the process: the server does not let the stream keep messages until a time", "stream", have.Name, "error", err)
		return st, nil
	}
	return updated, nil
}

// declare makes sure that the side stream want exists, stored as safely as stream.
func declare(ctx context.Context, c *core.Core, stream Stream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	st, err := c.JetStream.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		st, err = create(ctx, c, stream, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			st, err = c.JetStream.Stream(ctx, want.Name) // another process was faster
		}
	}
	if err != nil {
		return nil, jserr.Wrap(want.Name, "create", err)
	}
	have := st.CachedInfo().Config
	if moved, committed := wire.Moved(have.Metadata); moved {
		return nil, &switchover.StreamMovedError{Stream: want.Name, Committed: committed}
	}
	lacks := missing(want.Subjects, have.Subjects)
	if len(lacks) > 0 && len(lacks) < len(want.Subjects) && have.Retention == want.Retention {
		have.Subjects = append(have.Subjects, lacks...) // an older version made it
		if st, err = c.JetStream.UpdateStream(ctx, have); err != nil {
			return nil, jserr.Wrap(want.Name, "update", err)
		}
		lacks = nil
	}
	if len(lacks) > 0 || have.Retention != want.Retention {
		return nil, &ForeignStreamError{Stream: stream.Name, Side: want.Name,
			Have: fmt.Sprintf("%v (%s)", have.Subjects, have.Retention), Want: fmt.Sprintf("%v (%s)", want.Subjects, want.Retention)}
	}
	return st, nil
}

// create creates the side stream want. It is stored as the stream is now, which may have been
// moved to another server since it was looked up.
func create(ctx context.Context, c *core.Core, stream Stream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	st, err := c.JetStream.Stream(ctx, stream.Name)
	if err != nil {
		return nil, err
	}
	now := st.CachedInfo().Config
	want.Storage, want.Replicas = now.Storage, now.Replicas
	err = c.WithReserve(ctx, 0, func() (err error) {
		st, err = c.CreateStream(ctx, want)
		if jserr.Is(err, jserr.MaxBytesRequired) && now.MaxBytes > 0 {
			// The account has no streams without a limit. No copy may be dropped at the limit.
			want.MaxBytes, want.Discard = now.MaxBytes, jetstream.DiscardNew
			st, err = c.CreateStream(ctx, want)
		}
		return err
	})
	return st, err
}

// missing returns the elements of want that have lacks.
func missing(want, have []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(s string) bool { return slices.Contains(have, s) })
}

// declareRetryConsumer makes sure that the consumer exists by which messages come back to
// a durable. created reports that it did not exist. If the consumer is paused it stays so.
func declareRetryConsumer(ctx context.Context, c *core.Core, stream Stream, durable string, ackWait time.Duration) (info *jetstream.ConsumerInfo, created bool, err error) {
	name := RetryStream(stream.Name)
	con, err := c.JetStream.Consumer(ctx, name, durable)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		created = true
		con, err = createRetryConsumer(ctx, c, name, jetstream.ConsumerConfig{Durable: durable,
			FilterSubject: DurablePattern(Retry, stream.Name, durable), AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: ackWait, MaxDeliver: -1, // not in memory: a server that restarts would forget it
			MaxAckPending: max(stream.ConsumerLimits.MaxAckPending, 0)})
	case err == nil && con.CachedInfo().Config.AckWait != ackWait:
		have := con.CachedInfo().Config
		have.AckWait = ackWait
		con, err = c.JetStream.UpdateConsumer(ctx, name, have)
	}
	if err != nil {
		return nil, false, jserr.Wrap(name, "consume", err)
	}
	return con.CachedInfo(), created, nil
}

// createGrace is how long the creation of a consumer may take beyond its context. It is deleted
// then.
const createGrace = time.Second

// createRetryConsumer creates the consumer. If ctx ends meanwhile it deletes the consumer again.
func createRetryConsumer(ctx context.Context, c *core.Core, name string, want jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	extended, done := deadline.Extend(ctx, createGrace)
	defer done()
	con, err := c.JetStream.CreateOrUpdateConsumer(extended, name, want)
	if err == nil && ctx.Err() != nil {
		_ = c.JetStream.DeleteConsumer(extended, name, want.Durable) // one that stays has no effect
		err = ctx.Err()
	}
	return con, err
}

// defaultMaxHeld is used where the consumer has no limit.
const defaultMaxHeld = 1000
