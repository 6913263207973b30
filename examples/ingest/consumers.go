package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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
// each goes on where it was.
func (s *summary) consume(ctx context.Context, b *bus.Bus, st *bus.Stream) ([]*consumer, error) {
	counts, err1 := start(ctx, b, st, "count-events", s.events.add)
	sums, err2 := start(ctx, b, st, "sum-repositories", s.repositories.add)
	measures, err3 := start(ctx, b, st, "measure-payloads", s.payloads.add)
	return []*consumer{counts, sums, measures}, errors.Join(err1, err2, err3)
}

// consumer is one durable consumer of the stream and how far it is.
type consumer struct {
	bus     *bus.Bus
	name    string
	backlog int // messages that earlier runs left to it
	handled atomic.Int64
	moved   chan struct{} // handled has grown
	*bus.Consumer
}

// start starts the durable consumer name, which calls add for each message. The
// type of add says how the payload is decoded: as bytes, as a struct.
func start[T any](ctx context.Context, b *bus.Bus, st *bus.Stream, name string, add func(*bus.Msg[T])) (*consumer, error) {
	c := &consumer{bus: b, name: name, moved: make(chan struct{}, 1)}
	var err error
	if c.backlog, err = c.left(ctx); err != nil {
		return nil, err
	}
	c.Consumer, err = bus.Consume(ctx, st, name, bus.Subject[T](events), func(_ context.Context, m *bus.Msg[T]) error {
		add(m)
		c.handled.Add(1)
		select {
		case c.moved <- struct{}{}:
		default:
		}
		return nil
	})
	return c, err
}

// left is how many messages of the stream the consumer has not acknowledged. The
// library does not tell, so this asks the server.
func (c *consumer) left(ctx context.Context) (int, error) {
	con, err := c.bus.JetStream().Consumer(ctx, streamName, c.name)
	if err == nil {
		info := con.CachedInfo()
		return int(info.NumPending) + info.NumAckPending, nil
	}
	if !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, err
	}
	st, err := c.bus.JetStream().Stream(ctx, streamName)
	if err != nil {
		return 0, err
	}
	return int(st.CachedInfo().State.Msgs), nil
}

// wait waits until the consumer has handled its backlog and the messages that
// this run stored.
func (c *consumer) wait(ctx context.Context, stored int) error {
	ask := time.NewTicker(time.Second)
	defer ask.Stop()
	for int(c.handled.Load()) < c.backlog+stored {
		select {
		case <-c.moved:
		case <-ask.C:
			// Another process may consume under the same name: then some of
			// the messages never come here, and only the server knows.
			if left, err := c.left(ctx); err != nil || left == 0 {
				return err
			}
		case <-c.Done():
			return fmt.Errorf("consumer %s ended: %w", c.name, c.Err())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
