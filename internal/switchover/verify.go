package switchover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// verify waits until the copy of a stream answers, and compares it with the original.
func (s *run) verify(ctx context.Context, from *jetstream.StreamInfo) error {
	name := from.Config.Name
	to, err := s.await(ctx, from)
	if err != nil {
		return fmt.Errorf("the copy of stream %s is not there: %w", name, err)
	}
	if !s.isVolatile(from) && (to.State.Msgs != from.State.Msgs || to.State.LastSeq != from.State.LastSeq) {
		return fmt.Errorf("the copy of stream %s has %d messages up to sequence %d, and not %d up to %d",
			name, to.State.Msgs, to.State.LastSeq, from.State.Msgs, from.State.LastSeq)
	}
	return nil
}

// verifyConsumers waits until the consumers of a copy take settlements, and compares them.
func (s *run) verifyConsumers(ctx context.Context, from *jetstream.StreamInfo) error {
	all, err := consumers(ctx, s.sourceJS, from.Config.Name)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, takesNone)
	for _, c := range all { // in turn: the servers elect the leaders of all meanwhile
		if err := answers(ctx, s.Target, c.Stream, c.Name); err != nil {
			return err
		}
	}
	return each(all, func(c *jetstream.ConsumerInfo) error { return s.compareConsumer(ctx, c, s.isVolatile(from)) })
}

// takesNone reports whether a consumer takes no settlements.
func takesNone(c *jetstream.ConsumerInfo) bool { return c.Config.AckPolicy == jetstream.AckNonePolicy }

// isVolatile reports whether the server may change the stream by itself: then original and
// copy may differ a little.
func (s *run) isVolatile(info *jetstream.StreamInfo) bool {
	c := &info.Config
	return c.MaxAge > 0 || c.AllowMsgTTL || c.AllowMsgSchedules || c.Mirror != nil || len(c.Sources) > 0
}

// await waits until the copy has a leader and all messages.
func (s *run) await(ctx context.Context, from *jetstream.StreamInfo) (to *jetstream.StreamInfo, err error) {
	for began := time.Now(); ; {
		to, err = awaitStream(ctx, s.Target, from.Config.Name)
		if err == nil && to.State.LastSeq >= from.State.LastSeq && s.isAssigned(to) {
			return to, nil
		}
		if err := pause(ctx, began); err != nil {
			return nil, err
		}
	}
}

// isAssigned reports whether the servers of a cluster have the copy together. A server that has lost the
// lead, and got it back, may have it for itself.
func (s *run) isAssigned(to *jetstream.StreamInfo) bool {
	c := to.Cluster
	return s.report.Replicas == 1 || c != nil && c.Leader != "" && len(c.Replicas) == s.report.Replicas-1
}

// compareConsumer compares the copy of a consumer. What is behind removed messages may differ: the
// target counts them as delivered.
func (s *run) compareConsumer(ctx context.Context, from *jetstream.ConsumerInfo, volatile bool) error {
	for began := time.Now(); ; {
		to, err := awaitConsumer(ctx, s.Target, from.Stream, from.Name)
		if err == nil && s.equal(from, to, volatile) {
			return nil
		}
		if why := pause(ctx, began); why != nil {
			if to != nil {
				why = fmt.Errorf("the copy of consumer %s of stream %s differs: %s, and not %s: %w", from.Name, from.Stream, position(to), position(from), why)
			}
			return why
		}
	}
}

// equal reports whether the copy of a consumer is where the original is. In a cluster a server
// may lead it that does not have all messages yet, and counts as pending those that it has. That may
// take many seconds. It sends the others when they are there; see wakeConsumers.
func (s *run) equal(from, to *jetstream.ConsumerInfo, volatile bool) bool {
	if volatile {
		return from.Delivered.Consumer == to.Delivered.Consumer
	}
	if s.report.Replicas > 1 {
		return from.Delivered.Consumer == to.Delivered.Consumer && from.AckFloor.Consumer == to.AckFloor.Consumer && from.NumAckPending == to.NumAckPending
	}
	return position(from) == position(to)
}

// position describes where a consumer is.
func position(c *jetstream.ConsumerInfo) string {
	return fmt.Sprintf("delivered %d, acknowledged up to %d, unacknowledged %d, pending %d",
		c.Delivered.Consumer, c.AckFloor.Consumer, c.NumAckPending, c.NumPending)
}

// barrier waits until every consumer of the old server has processed the settlements that
// were sent to it. Streams and consumers that are deleted meanwhile have none to process.
func (s *run) barrier(ctx context.Context, streams []*jetstream.StreamInfo) error {
	return each(streams, func(info *jetstream.StreamInfo) error {
		all, err := consumers(ctx, s.sourceJS, info.Config.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, c := range all {
			if err := s.processed(ctx, c); err != nil {
				return err
			}
		}
		return nil
	})
}

// answerLimit is how long a consumer of the old server may take to process settlements, also
// when publishers do not wait for it.
const answerLimit = 10 * time.Second

var errNoAnswer = fmt.Errorf("no answer came within %v", answerLimit)

// processed waits until a consumer of the old server has processed the settlements that were
// sent to it, or is deleted.
func (s *run) processed(ctx context.Context, c *jetstream.ConsumerInfo) error {
	if takesNone(c) {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, errNoAnswer)
	defer cancel()
	for limit := pollLimit; ; limit *= 2 { // an answer may be late
		brief, cancel := context.WithTimeout(ctx, limit)
		err := answers(brief, s.Source, c.Stream, c.Name)
		cancel()
		if err == nil {
			return nil
		}
		if s.isDeleted(ctx, c) {
			return nil
		}
		if err := sleep(ctx, pollPause); err != nil { // a connection that has ended fails at once
			return fmt.Errorf("consumer %s of stream %s does not answer: %w", c.Name, c.Stream, err)
		}
	}
}

// isDeleted reports whether the old server has a consumer no more.
func (s *run) isDeleted(ctx context.Context, c *jetstream.ConsumerInfo) bool {
	ctx, cancel := context.WithTimeout(ctx, pollLimit)
	defer cancel()
	_, err := s.sourceJS.Consumer(ctx, c.Stream, c.Name)
	return errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)
}
