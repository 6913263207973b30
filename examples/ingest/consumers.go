package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnibus-go/bus"
)

// summary has the results of the consumers. Each field belongs to one consumer, which handles one message
// at a time. Read it when the bus is closed.
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

// repositories counts messages by repository and by sender.
type repositories struct {
	messages int
	byName   map[string]*repository
}

type repository struct {
	messages int
	senders  map[string]int
}

// noRepository is the name for events without a repository, for example those of an organisation.
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

// payloads has the sizes of the payloads.
type payloads struct {
	messages int
	bytes    int
	largest  int
	subject  string // of the largest payload
	sequence uint64 // of the largest payload
}

func (c *payloads) add(m *bus.Msg[[]byte]) {
	c.messages++
	c.bytes += len(m.Data)
	if len(m.Data) > c.largest {
		c.largest, c.subject, c.sequence = len(m.Data), m.Subject, m.Sequence
	}
}

// consume starts the consumers. Their names are the same in each run, so each consumer continues where
// the last run stopped. The argument type of add decides how the payload is decoded: as bytes or as
// a struct.
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

// wait waits until the consumer has handled all messages of the stream. Only the server knows that: another
// process may use the same consumer, and an earlier run may have left messages.
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
