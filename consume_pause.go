package bus

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// The JetStream API levels of servers that can do what the calls need.
const (
	levelPause  = 1
	levelRewind = 4
)

// needs returns an *UnsupportedError where the server is too old for a call.
func (b *Bus) needs(call string, level int, version string) error {
	if _, has := b.core.Link.Conn().ConnectedServerJetStream(); b.core.Link.Conn().IsConnected() && has < level {
		return &UnsupportedError{Call: call, Level: level, Have: has, Version: version}
	}
	return nil
}

// callable returns an error where a call on the consumer can do nothing.
func (c *Consumer) callable(ctx context.Context, call string) error {
	if c.none() {
		return badArgument(call, "consumer", "is nil; did Consume fail?")
	}
	if err := c.bus.callable(ctx, call); err != nil {
		return err
	}
	if c.life.Err() != nil {
		return c.bus.opError(call, c.durable, ErrClosed)
	}
	return nil
}

// Pause has the server send no messages to any member of the durable until a time, or
// until Resume; also none that come back for another attempt. The zero time means until
// Resume. It outlasts the members and the server. What members have taken in they
// still handle: about what they do in a second. Consumer.Lag tells of a pause.
//
// Errors: *UnsupportedError before nats-server 2.11, *OptionError for a time that has
// passed, *StreamError, ErrTimeout, ErrClosed.
func (c *Consumer) Pause(ctx context.Context, until time.Time) error {
	if err := c.callable(ctx, "Pause"); err != nil {
		return err
	}
	if until.IsZero() {
		until = time.Now().Add(untilResume)
	}
	if !until.After(time.Now()) {
		return badArgument("Pause", "until", "has passed: "+until.Format(time.RFC3339))
	}
	return c.pause(ctx, "Pause", until)
}

// untilResume is as good as for ever, and not beyond the year 2262, where nanoseconds end.
const untilResume = 100 * 365 * 24 * time.Hour

// Resume ends Pause, whoever called it. Errors: those of Pause.
func (c *Consumer) Resume(ctx context.Context) error {
	if err := c.callable(ctx, "Resume"); err != nil {
		return err
	}
	return c.pause(ctx, "Resume", time.Time{})
}

// pause pauses the durable and its retries; the zero time ends that.
func (c *Consumer) pause(ctx context.Context, call string, until time.Time) error {
	if err := c.bus.needs(call, levelPause, "2.11"); err != nil {
		return err
	}
	ctx, cancel := c.bus.core.WithTimeout(ctx)
	defer cancel()
	for _, stream := range []string{c.stream, sidestream.RetryStream(c.stream)} {
		if err := c.pauseOn(ctx, stream, until); err != nil {
			return streamError(stream, call+" "+c.durable, err)
		}
	}
	return nil
}

func (c *Consumer) pauseOn(ctx context.Context, stream string, until time.Time) error {
	if until.IsZero() {
		if _, err := c.bus.core.JetStream.ResumeConsumer(ctx, stream, c.durable); err != nil {
			return err
		}
		return c.wakeOn(stream)
	}
	_, err := c.bus.core.JetStream.PauseConsumer(ctx, stream, c.durable, until)
	return err
}

// wakeOn has the server look for messages of the durable. Without that it would do so
// when something else happens, up to a heartbeat later (nats-server 2.15): any request
// for messages makes it look. This one has ended by then, and nobody hears the answer.
func (c *Consumer) wakeOn(stream string) error {
	return c.bus.core.Link.Publish(&wire.Out{Subject: nextSubject(stream, c.durable), Reply: c.bus.core.Link.Conn().NewInbox(), Data: []byte(`{"batch":1,"expires":1}`)})
}

// pausedUntil is until when a consumer sends nothing; the zero time if it does.
func pausedUntil(info *jetstream.ConsumerInfo) time.Time {
	if until := info.Config.PauseUntil; until != nil && until.After(time.Now()) {
		return *until
	}
	return time.Time{}
}
