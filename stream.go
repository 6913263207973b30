package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/subject"
)

// Stream is a durable log of messages on the server. It holds no resources and
// needs no closing. Safe for concurrent use.
type Stream struct {
	bus      *Bus
	name     string
	created  time.Time
	storage  jetstream.StorageType
	replicas int

	content atomic.Pointer[content] // the latest that is known
}

// content is what a stream stores.
type content struct {
	subjects []string // of its own
	copies   bool     // it has messages of other streams, or under other subjects than they were published to
}

func contentOf(info *jetstream.StreamInfo) *content {
	c := info.Config
	return &content{subjects: c.Subjects, copies: c.Mirror != nil || len(c.Sources) > 0 || c.SubjectTransform != nil}
}

// takes reports whether a message on subj is stored.
func (c *content) takes(subj string) bool {
	return slices.ContainsFunc(c.subjects, func(p string) bool { return subject.Matches(p, subj) })
}

// mayHave reports whether there may be messages that pattern matches.
func (c *content) mayHave(pattern string) bool {
	return c.copies || slices.ContainsFunc(c.subjects, func(p string) bool { return subject.Overlap(p, pattern) })
}

// hint says what the stream stores.
func (c *content) hint() string {
	if len(c.subjects) == 0 {
		return "it stores nothing but copies of other streams; publish to where they come from"
	}
	return "it stores " + strings.Join(c.subjects, ", ")
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
	return slices.Clone(s.content.Load().subjects)
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
	return b.known(st.CachedInfo()), nil
}

// known notes what the stream stores.
func (b *Bus) known(info *jetstream.StreamInfo) *Stream {
	s := &Stream{bus: b, name: info.Config.Name, created: info.Created, storage: info.Config.Storage, replicas: info.Config.Replicas}
	s.see(info)
	return s
}

// see notes what the stream stores now.
func (s *Stream) see(info *jetstream.StreamInfo) {
	s.content.Store(contentOf(info))
	s.bus.captures.set(captureOf(info))
}

// stores returns an error unless the stream is one for what is asked of it. It looks
// the stream up before it says no: somebody may have added subjects.
func (s *Stream) stores(ctx context.Context, subj, not string, fits func(*content) bool) error {
	if fits(s.content.Load()) {
		return nil
	}
	if s.bus.core.Link.Conn().IsConnected() {
		ctx, cancel := s.bus.core.WithTimeout(ctx)
		defer cancel()
		st, err := s.bus.core.JetStream.Stream(ctx, s.name)
		if err != nil {
			return streamError(s.name, "look up", err)
		}
		if s.see(st.CachedInfo()); fits(s.content.Load()) {
			return nil
		}
	}
	return &SubjectError{Subject: subj, Reason: fmt.Sprintf("stream %q %s", s.name, not), Hint: s.content.Load().hint()}
}

// streamError wraps the server's answer about a stream.
func streamError(name, op string, err error) *StreamError {
	e := &StreamError{Stream: name, Op: op, Err: err}
	e.Code, e.ErrorCode = jserr.Codes(err)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, nats.ErrNoResponders):
		e.Err = fmt.Errorf("%w: declare it with Bus.Stream (%v)", ErrStreamNotFound, err)
	case e.Code == 0:
		e.Err = translate(err)
	case remedies[e.ErrorCode] != "":
		e.Err = fmt.Errorf("%w; %s", err, remedies[e.ErrorCode])
	}
	return e
}

// remedies are for answers of the server that do not say what to do, by its numbers.
var remedies = map[int]string{
	jserr.SubjectsOverlap:     "another stream stores one of these already: use that one, or subjects that do not overlap with its",
	jserr.ReplicasUnsupported: "a single server keeps one copy: leave Replicas out, or use a cluster",
}
