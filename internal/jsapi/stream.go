package jsapi

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// stream is a stream whose requests notice refusals.
type stream struct {
	jetstream.Stream
	client *client
}

// name is that of the stream.
func (s *stream) name() string { return s.CachedInfo().Config.Name }

// Info with options may make many requests, one for each page of subjects, and would begin again
// with the first one. So it has all the time of ctx, after the stream has answered once.
func (s *stream) Info(ctx context.Context, opts ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	request := "STREAM.INFO." + s.name()
	if len(opts) == 0 || s.client.link.Clustered() {
		info, err := ask(ctx, s.client, request, func(ctx context.Context) (*jetstream.StreamInfo, error) { return s.Stream.Info(ctx) })
		if err != nil || len(opts) == 0 {
			return info, err
		}
	}
	return call(ctx, s.client.link, request, func(ctx context.Context) (*jetstream.StreamInfo, error) {
		return s.Stream.Info(ctx, opts...)
	})
}

func (s *stream) Purge(ctx context.Context, opts ...jetstream.StreamPurgeOpt) error {
	return do(ctx, s.client.link, "STREAM.PURGE."+s.name(), func(ctx context.Context) error {
		return s.Stream.Purge(ctx, opts...)
	})
}

func (s *stream) DeleteMsg(ctx context.Context, sequence uint64) error {
	return do(ctx, s.client.link, "STREAM.MSG.DELETE."+s.name(), func(ctx context.Context) error {
		return s.Stream.DeleteMsg(ctx, sequence)
	})
}

func (s *stream) GetMsg(ctx context.Context, sequence uint64, opts ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	return ask(ctx, s.client, s.get(), func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return s.Stream.GetMsg(ctx, sequence, opts...)
	})
}

func (s *stream) GetLastMsgForSubject(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	return ask(ctx, s.client, s.get(), func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return s.Stream.GetLastMsgForSubject(ctx, subject)
	})
}

// get is the request that reads one message.
func (s *stream) get() string {
	if s.CachedInfo().Config.AllowDirect {
		return "DIRECT.GET." + s.name()
	}
	return "STREAM.MSG.GET." + s.name()
}
