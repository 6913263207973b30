package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnibus-go/bus"
)

// summary is what the consumers found out. Each field belongs to one consumer,
// which handles one message at a time: read it when the bus is closed.
type summary struct {
	events       eventCounts
	repositories repositories
	payloads     payloads
}

// eventCounts counts messages by event type.
type eventCounts struct {
	messages int
	byType   map[string]int
}

func (c *eventCounts) add(m *bus.Msg[[]byte]) {
	c.messages++
	if c.byType == nil {
		c.byType = make(map[string]int)
	}
	if tokens, ok := events.Match(m.Subject); ok {
		c.byType[tokens[0]]++
	}
}

// repositories counts messages by repository and by who sent them.
type repositories struct {
	messages int
	byName   map[string]*repository
}

type repository struct {
	messages int
	senders  map[string]int
}

// noRepository stands for events that are about none, as those of an organisation.
const noRepository = "(none)"

func (c *repositories) add(m *bus.Msg[webhook]) {
	c.messages++
	name := m.Data.Repository.FullName
	if name == "" {
		name = noRepository
	}
	if c.byName == nil {
		c.byName = make(map[string]*repository)
	}
	r := c.byName[name]
	if r == nil {
		r = &repository{senders: make(map[string]int)}
		c.byName[name] = r
	}
	r.messages++
	if sender := m.Data.Sender.Login; sender != "" {
		r.senders[sender]++
	}
}

// payloads measures the payloads.
type payloads struct {
	messages int
	bytes    int
	largest  int
	subject  string // of the largest
	sequence uint64 // likewise
}

func (c *payloads) add(m *bus.Msg[[]byte]) {
	c.messages++
	c.bytes += len(m.Data)
	if len(m.Data) > c.largest {
		c.largest, c.subject, c.sequence = len(m.Data), m.Subject, m.Sequence
	}
}

// consume starts the consumers. Their names stay the same from run to run, so
// each goes on where it was. The type of add says how the payload is decoded: as
// bytes, as a struct.
func (s *summary) consume(ctx context.Context, st *bus.Stream) ([]*bus.Consumer, error) {
	counts, err1 := bus.Consume(ctx, st, "count-events", bus.Subject[[]byte](events), handler(s.events.add))
	sums, err2 := bus.Consume(ctx, st, "sum-repositories", bus.Subject[webhook](events), handler(s.repositories.add))
	measures, err3 := bus.Consume(ctx, st, "measure-payloads", bus.Subject[[]byte](events), handler(s.payloads.add))
	return []*bus.Consumer{counts, sums, measures}, errors.Join(err1, err2, err3)
}

func handler[T any](add func(*bus.Msg[T])) bus.Handler[T] {
	return func(_ context.Context, m *bus.Msg[T]) error {
		add(m)
		return nil
	}
}

// wait waits until the consumer has handled all that is in the stream. Only the
// server knows: another process may consume under the same name, and earlier runs
// may have left something.
func wait(ctx context.Context, c *bus.Consumer) error {
	ask := time.NewTicker(20 * time.Millisecond)
	defer ask.Stop()
	for {
		lag, err := c.Lag(ctx)
		if err != nil || lag.Waiting+lag.Unfinished == 0 {
			return err
		}
		select {
		case <-ask.C:
		case <-c.Done():
			return fmt.Errorf("a consumer ended: %w", c.Err())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
