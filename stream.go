package bus

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/capture"
)

// Stream is a durable log of messages on the server. It holds no resources and
// needs no closing. Safe for concurrent use.
type Stream struct {
	bus      *Bus
	name     string
	created  time.Time
	storage  jetstream.StorageType
	replicas int

	content atomic.Pointer[capture.Content] // as of the last look at the server
}

// Name is the stream's name.
func (s *Stream) Name() string {
	if s == nil {
		return ""
	}
	return s.name
}

// Subjects are the patterns that the stream stores, as of when it was last looked
// up. They are empty for one that copies others.
func (s *Stream) Subjects() []string {
	if s == nil || s.content.Load() == nil {
		return nil
	}
	return slices.Clone(s.content.Load().Subjects)
}

// LookupStream returns an existing stream, or an error that matches
// ErrStreamNotFound. It changes nothing.
func (b *Bus) LookupStream(ctx context.Context, name string) (*Stream, error) {
	if err := b.callable(ctx, "LookupStream"); err != nil {
		return nil, err
	}
	if !streamName.MatchString(name) {
		return nil, badStreamName(name)
	}
	ctx, cancel := b.core.WithTimeout(ctx)
	defer cancel()
	st, err := b.core.JetStream.Stream(ctx, name)
	if err != nil {
		return nil, streamError(name, "look up", err)
	}
	return b.streamOf(st.CachedInfo()), nil
}

// streamOf returns the stream of info, and registers what it stores.
func (b *Bus) streamOf(info *jetstream.StreamInfo) *Stream {
	s := &Stream{bus: b, name: info.Config.Name, created: info.Created, storage: info.Config.Storage, replicas: info.Config.Replicas}
	s.register(info)
	return s
}

// register registers what the stream stores now.
func (s *Stream) register(info *jetstream.StreamInfo) {
	s.content.Store(capture.ContentOf(info))
	s.bus.captures.Set(info)
}

// checkStores returns an error unless the stream stores messages on a literal subject.
func (s *Stream) checkStores(ctx context.Context, subj string) error {
	return s.checkContent(ctx, subj, "does not store it", func(c *capture.Content) bool { return c.Stores(subj) })
}

// checkMayHave returns an error unless the stream may have messages that match a pattern.
func (s *Stream) checkMayHave(ctx context.Context, pattern string) error {
	return s.checkContent(ctx, pattern, "stores nothing that matches", func(c *capture.Content) bool { return c.MayHave(pattern) })
}

// checkContent returns a *SubjectError with the reason unless ok accepts what the stream
// stores. Before it returns one it asks the server: another program may have added subjects.
func (s *Stream) checkContent(ctx context.Context, subj, reason string, ok func(*capture.Content) bool) error {
	if ok(s.content.Load()) {
		return nil
	}
	if s.bus.core.Connected() {
		ctx, cancel := s.bus.core.WithTimeout(ctx)
		defer cancel()
		st, err := s.bus.core.JetStream.Stream(ctx, s.name)
		if err != nil {
			return streamError(s.name, "look up", err)
		}
		if s.register(st.CachedInfo()); ok(s.content.Load()) {
			return nil
		}
	}
	return &SubjectError{Subject: subj, Reason: fmt.Sprintf("stream %q %s", s.name, reason), Hint: s.content.Load().Hint()}
}
