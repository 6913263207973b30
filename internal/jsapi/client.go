package jsapi

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/link"
)

// api is how the subjects of all requests begin.
const api = "$JS.API."

// client is a JetStream client that notices refusals.
type client struct {
	jetstream.JetStream
	link *link.Link
	node bool // the server is a node in this process, which may not know the other nodes yet

	// beforeDelete is called before a stream is deleted.
	beforeDelete func(stream string) error
}

// New returns a JetStream client on l. node says that the server is a node of a cluster in this
// process. beforeDelete is called before a stream is deleted; if it fails, the stream is not.
func New(l *link.Link, node bool, beforeDelete func(stream string) error) (jetstream.JetStream, error) {
	js, err := jetstream.New(l.Conn())
	if err != nil {
		return nil, err
	}
	return &client{js, l, node, beforeDelete}, nil
}

// call makes a request to a subject that begins with the tokens request, and returns its result.
func call[T any](ctx context.Context, l *link.Link, request string, f func(context.Context) (T, error)) (T, error) {
	return link.WhileAllowed(ctx, l, api+request, f)
}

// do is call for a request without a result.
func do(ctx context.Context, l *link.Link, request string, f func(context.Context) error) error {
	_, err := call(ctx, l, request, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}

// stream makes a request that returns a stream.
func (c *client) stream(ctx context.Context, request string, f func(context.Context) (jetstream.Stream, error)) (jetstream.Stream, error) {
	st, err := ask(ctx, c, request, f)
	if err != nil {
		return nil, err
	}
	return &stream{st, c}, nil
}

func (c *client) AccountInfo(ctx context.Context) (*jetstream.AccountInfo, error) {
	return ask(ctx, c, "INFO", c.JetStream.AccountInfo)
}

func (c *client) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	return c.stream(ctx, "STREAM.INFO."+name, func(ctx context.Context) (jetstream.Stream, error) {
		return c.JetStream.Stream(ctx, name)
	})
}

func (c *client) CreateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	return c.stream(ctx, "STREAM.CREATE."+cfg.Name, func(ctx context.Context) (jetstream.Stream, error) {
		return c.JetStream.CreateStream(ctx, cfg)
	})
}

func (c *client) UpdateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	return c.stream(ctx, "STREAM.UPDATE."+cfg.Name, func(ctx context.Context) (jetstream.Stream, error) {
		return c.JetStream.UpdateStream(ctx, cfg)
	})
}

func (c *client) DeleteStream(ctx context.Context, name string) error {
	if err := c.beforeDelete(name); err != nil {
		return err
	}
	return do(ctx, c.link, "STREAM.DELETE."+name, func(ctx context.Context) error {
		return c.JetStream.DeleteStream(ctx, name)
	})
}

func (c *client) Consumer(ctx context.Context, stream, name string) (jetstream.Consumer, error) {
	return ask(ctx, c, "CONSUMER.INFO."+stream+"."+name, func(ctx context.Context) (jetstream.Consumer, error) {
		return c.JetStream.Consumer(ctx, stream, name)
	})
}

func (c *client) CreateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	return ask(ctx, c, "CONSUMER.CREATE."+stream, func(ctx context.Context) (jetstream.Consumer, error) {
		return c.JetStream.CreateConsumer(ctx, stream, cfg)
	})
}

func (c *client) UpdateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	return ask(ctx, c, "CONSUMER.CREATE."+stream, func(ctx context.Context) (jetstream.Consumer, error) {
		return c.JetStream.UpdateConsumer(ctx, stream, cfg)
	})
}

func (c *client) DeleteConsumer(ctx context.Context, stream, name string) error {
	return do(ctx, c.link, "CONSUMER.DELETE."+stream+"."+name, func(ctx context.Context) error {
		return c.JetStream.DeleteConsumer(ctx, stream, name)
	})
}

func (c *client) PauseConsumer(ctx context.Context, stream, name string, until time.Time) (*jetstream.ConsumerPauseResponse, error) {
	return ask(ctx, c, "CONSUMER.PAUSE."+stream+"."+name, func(ctx context.Context) (*jetstream.ConsumerPauseResponse, error) {
		return c.JetStream.PauseConsumer(ctx, stream, name, until)
	})
}

func (c *client) ResumeConsumer(ctx context.Context, stream, name string) (*jetstream.ConsumerPauseResponse, error) {
	return ask(ctx, c, "CONSUMER.PAUSE."+stream+"."+name, func(ctx context.Context) (*jetstream.ConsumerPauseResponse, error) {
		return c.JetStream.ResumeConsumer(ctx, stream, name)
	})
}

func (c *client) ResetConsumerToSequence(ctx context.Context, stream, name string, sequence uint64) (*jetstream.ConsumerResetResponse, error) {
	return call(ctx, c.link, "CONSUMER.RESET."+stream+"."+name, func(ctx context.Context) (*jetstream.ConsumerResetResponse, error) {
		return c.JetStream.ResetConsumerToSequence(ctx, stream, name, sequence)
	})
}

func (c *client) Publish(ctx context.Context, subject string, data []byte, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	return link.WhileAllowed(ctx, c.link, subject, func(ctx context.Context) (*jetstream.PubAck, error) {
		return c.JetStream.Publish(ctx, subject, data, opts...)
	})
}
