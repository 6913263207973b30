package bus

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/capture"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
	"github.com/omnibus-go/bus/switchover"
)

// Stream is a durable log of messages on the server. It holds no resources and needs no
// closing. Safe for concurrent use.
type Stream struct {
	bus  *Bus
	name string
	side sidestream.Stream // what its side streams are made from

	content atomic.Pointer[capture.Content] // as of the last look at the server
}

// Name returns the stream's name. It is empty for a nil stream.
func (s *Stream) Name() string {
	if s == nil {
		return ""
	}
	return s.name
}

// Subjects returns the patterns that the stream stores, as the server last reported them.
// They are empty for a mirror, which stores only messages of another stream.
func (s *Stream) Subjects() []string {
	if s == nil || s.content.Load() == nil {
		return nil
	}
	return slices.Clone(s.content.Load().Subjects)
}

// DeclareOption is an option of Bus.Stream and Stream.Plan.
type DeclareOption interface{ onDeclare(*declareOptions) }

// declareOptions is what the options of a declaration set.
type declareOptions struct {
	shrink bool
	optionErrors
}

// declareOption implements DeclareOption.
type declareOption func(*declareOptions)

func (f declareOption) onDeclare(o *declareOptions) { f(o) }

// AllowShrink allows changes that delete messages or make the stream less safe: lower
// limits, a shorter MaxAge or Duplicates, InterestRetention, DiscardOld instead of
// DiscardNew, fewer subjects, sources or copies. Stream.Plan says beforehand how many
// messages they delete.
func AllowShrink() DeclareOption {
	return declareOption(func(o *declareOptions) { o.shrink = true })
}

// Stream makes sure that a stream exists as c describes it, and returns it. It creates a
// stream that does not exist.
//
// Declaring an existing stream never deletes messages or makes the stream less safe. Such a
// change is refused with a *StreamConflictError that says how many messages it would
// delete, unless you pass AllowShrink. Changes that the server cannot make, such as another
// Storage, are always refused. If one change is refused, nothing is changed.
//
// If several versions of a program declare the same stream, give each version a Revision.
// Then the highest one decides: a version with a lower Revision gets the stream as it is,
// without an error. Without a Revision, or with the same one, each declaration makes its
// own changes, so two such versions may change a field back and forth.
//
// Declarations of one bus take turns. Each looks again after a change whether another
// program has overwritten it. If two processes change a stream within the same
// milliseconds, one change may still be lost until that program declares the stream again.
// Safe for concurrent use.
//
// Other errors: *OptionError and *SubjectError for a wrong c (all of them, joined),
// *UnsupportedError for fields that the server does not know, *PanicError for a panic in
// Raw, *StreamError for other errors of the server, ErrTimeout, ErrClosed.
func (b *Bus) Stream(ctx context.Context, c StreamConfig, opts ...DeclareOption) (*Stream, error) {
	done, err := b.enter(ctx, "Stream")
	if err != nil {
		return nil, err
	}
	defer done()
	o := new(declareOptions)
	if err := errors.Join(applyAll(opts, o, DeclareOption.onDeclare), c.check(), b.checkDisk(c.Storage)); err != nil {
		return nil, err
	}
	b.logMemoryOnce()
	ctx, cancel := b.core.WithTimeout(ctx)
	defer cancel()
	info, err := b.streams.Declare(ctx, c.definition(o.shrink))
	if err != nil {
		return nil, definitionError(err)
	}
	return b.streamOf(info), nil
}

// LookupStream returns an existing stream and changes nothing. It also returns a stream that a
// switch home has fenced, so that Delete can remove what is left of it once that switch is
// committed. Such a stream has no Subjects, and its dead letters can be read. What stores,
// consumes, replays or removes messages is refused with a *switchover.StreamMovedError, and so is
// Plan. Safe for concurrent use.
//
// Errors: *OptionError for a name that no stream can have, ErrStreamNotFound, *StreamError,
// ErrTimeout, ErrClosed.
func (b *Bus) LookupStream(ctx context.Context, name string) (*Stream, error) {
	done, err := b.enter(ctx, "LookupStream")
	if err != nil {
		return nil, err
	}
	defer done()
	if !streamName.MatchString(name) {
		return nil, badName("LookupStream name", name)
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
	c := &info.Config
	b.known.Store(c.Name, true)
	s := &Stream{bus: b, name: c.Name, side: sidestream.Stream{Name: c.Name, Incarnation: sidestream.IncarnationOf(info),
		MaxConsumers: c.MaxConsumers, ConsumerLimits: c.ConsumerLimits}}
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
// stores, or a *switchover.StreamMovedError if a switch home has fenced it. Before it returns one it
// asks the server: another program may have added subjects, or taken the stream home.
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
		if moved, committed := wire.Moved(st.CachedInfo().Config.Metadata); moved {
			return &switchover.StreamMovedError{Stream: s.name, Committed: committed}
		}
		if s.register(st.CachedInfo()); ok(s.content.Load()) {
			return nil
		}
	}
	return &SubjectError{Subject: subj, Reason: fmt.Sprintf("stream %q %s", s.name, reason), Hint: s.content.Load().Hint()}
}

func (s *Stream) callable(ctx context.Context, call string) error {
	if s == nil {
		return badArgument(call, "stream", "is nil; did Stream or LookupStream fail?")
	}
	return s.bus.callable(ctx, call)
}

// enter is callable for a call of a few requests to the server, see Bus.enter.
func (s *Stream) enter(ctx context.Context, call string) (done func(), err error) {
	if err := s.callable(ctx, call); err != nil {
		return nil, err
	}
	return s.bus.enter(ctx, call)
}

// ready is enter for a call that may last, see Bus.ready.
func (s *Stream) ready(ctx context.Context, call string) error {
	if err := s.callable(ctx, call); err != nil {
		return err
	}
	return s.bus.ready(ctx, call)
}

// storable is callable, and refuses to store when the store directory is lost.
func (s *Stream) storable(ctx context.Context, call string) error {
	if err := s.callable(ctx, call); err != nil {
		return err
	}
	if lost := s.bus.lost.Load(); lost != nil {
		return s.bus.refused(&opError{call, lost})
	}
	return nil
}

// checkKept returns an error for call if the store directory is lost, whatever the server said:
// err of it, or an acknowledgement. It looks at the directory unless that was done less than
// maxAge ago.
func (s *Stream) checkKept(call string, maxAge time.Duration, err error) error {
	lost := s.bus.lostStore(maxAge)
	if lost == nil {
		return nil
	}
	if err == nil { // else the failure is counted already
		s.bus.core.Counters.PublishFailed.Add(1)
	}
	return &opError{call, lost}
}

// streamName matches the names of streams and durables.
var streamName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)

// badName is the error of a name of a stream or durable. option says where it was given.
func badName(option, name string) error {
	return &OptionError{Option: option, Value: fmt.Sprintf("%.200q", name), Reason: "use 1 to 200 letters, digits, - and _"}
}

// checkDisk refuses FileStorage if the bus has no store directory.
func (b *Bus) checkDisk(s Storage) error {
	if s == FileStorage && b.core.InMemory.Load() {
		return errNoDisk()
	}
	return nil
}
