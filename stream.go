package bus

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/subject"
)

// Storage says where a stream keeps its messages.
type Storage int

// The kinds of storage. The zero value decides by the bus: on disk with
// WithStoreDir and on external servers, else in memory.
const (
	AutoStorage Storage = iota
	FileStorage
	MemoryStorage
)

// StreamConfig describes a stream. A zero field leaves an existing stream as it
// is, and means the server's default for a new one.
type StreamConfig struct {
	Name     string   // letters, digits, - and _
	Subjects []string // what it stores, wildcards allowed; empty means the name itself

	Storage  Storage
	Replicas int // copies in a cluster, 1 to 5

	MaxAge     time.Duration // messages older than this are removed
	MaxMsgs    int64         // with more than these messages the oldest are removed
	MaxBytes   int64         // with more than these bytes the oldest are removed
	Duplicates time.Duration // how long a MsgID is remembered; the default is 2 minutes
}

// Stream is a durable log of messages on the server. It holds no resources and
// needs no closing. Safe for concurrent use.
type Stream struct {
	bus      *Bus
	name     string
	subjects []string
}

// Name is the stream's name.
func (s *Stream) Name() string { return s.name }

// Subjects are the patterns that the stream stores, as of when it was looked up.
func (s *Stream) Subjects() []string { return slices.Clone(s.subjects) }

var streamName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)

// Stream makes sure that the stream exists as c says, and returns it. On an
// existing stream only changes are made that cannot remove a stored message:
// more subjects, higher limits. Everything else is a *StreamConflictError, and
// nothing is changed.
//
// Other errors: *OptionError and *SubjectError about c, *StreamError (the
// server's own), ErrTimeout, ErrClosed.
func (b *Bus) Stream(ctx context.Context, c StreamConfig) (*Stream, error) {
	if err := b.callable(ctx, "Stream"); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	ctx, cancel := b.cfg.withTimeout(ctx)
	defer cancel()
	info, err := b.declare(ctx, c)
	if err != nil {
		return nil, err
	}
	return b.known(info), nil
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
	ctx, cancel := b.cfg.withTimeout(ctx)
	defer cancel()
	st, err := b.js.Stream(ctx, name)
	if err != nil {
		return nil, streamError(name, "look up", err)
	}
	return b.known(st.CachedInfo()), nil
}

// known notes what the stream stores.
func (b *Bus) known(info *jetstream.StreamInfo) *Stream {
	b.captures.set(info.Config.Name, info.Config.Subjects)
	return &Stream{bus: b, name: info.Config.Name, subjects: info.Config.Subjects}
}

func badStreamName(name string) error {
	return &OptionError{Option: "StreamConfig.Name", Value: strconv.Quote(name), Reason: "use 1 to 200 letters, digits, - and _"}
}

func (c StreamConfig) check() error {
	var errs []error
	bad := func(field string, value any, reason string) {
		errs = append(errs, &OptionError{Option: "StreamConfig." + field, Value: fmt.Sprint(value), Reason: reason})
	}
	if !streamName.MatchString(c.Name) {
		errs = append(errs, badStreamName(c.Name))
	}
	for _, s := range c.Subjects {
		if err := checkPattern(s); err != nil {
			errs = append(errs, err)
		}
	}
	if c.Storage < AutoStorage || c.Storage > MemoryStorage {
		bad("Storage", int(c.Storage), "use AutoStorage, FileStorage or MemoryStorage")
	}
	if c.Replicas < 0 || c.Replicas > 5 {
		bad("Replicas", c.Replicas, "must lie between 1 and 5")
	}
	if c.MaxMsgs < 0 {
		bad("MaxMsgs", c.MaxMsgs, "must not be negative")
	}
	if c.MaxBytes < 0 {
		bad("MaxBytes", c.MaxBytes, "must not be negative")
	}
	if c.MaxAge < 0 || c.MaxAge > 0 && c.MaxAge < 100*time.Millisecond {
		bad("MaxAge", c.MaxAge, "must be at least 100ms")
	}
	if c.Duplicates < 0 || c.Duplicates > 0 && c.Duplicates < 100*time.Millisecond {
		bad("Duplicates", c.Duplicates, "must be at least 100ms")
	}
	return errors.Join(errs...)
}

// declare creates or extends the stream.
func (b *Bus) declare(ctx context.Context, c StreamConfig) (*jetstream.StreamInfo, error) {
	st, err := b.js.Stream(ctx, c.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		st, err = b.js.CreateStream(ctx, b.fresh(c))
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			if err != nil {
				return nil, streamError(c.Name, "create", err)
			}
			return st.CachedInfo(), nil
		}
		st, err = b.js.Stream(ctx, c.Name) // somebody else was faster
	}
	if err != nil {
		return nil, streamError(c.Name, "look up", err)
	}
	want, conflicts := c.over(st.CachedInfo().Config)
	if len(conflicts) > 0 {
		return nil, &StreamConflictError{Stream: c.Name, Fields: conflicts}
	}
	if want == nil {
		return st.CachedInfo(), nil
	}
	st, err = b.js.UpdateStream(ctx, *want)
	if err != nil {
		return nil, streamError(c.Name, "update", err)
	}
	return st.CachedInfo(), nil
}

// fresh is c as the configuration of a new stream.
func (b *Bus) fresh(c StreamConfig) jetstream.StreamConfig {
	js := jetstream.StreamConfig{Name: c.Name, Subjects: c.Subjects, Replicas: c.Replicas, MaxAge: c.MaxAge,
		MaxMsgs: unlimited(c.MaxMsgs), MaxBytes: unlimited(c.MaxBytes), Duplicates: c.Duplicates, AllowDirect: true}
	if c.Storage == MemoryStorage || c.Storage == AutoStorage && b.engine != nil && b.cfg.storeDir == "" {
		js.Storage = jetstream.MemoryStorage
	}
	return js
}

// unlimited turns our zero into the server's.
func unlimited(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// over lays c over the configuration that the server has. It returns what to
// update, nil when nothing differs, and the fields that may not be changed.
func (c StreamConfig) over(have jetstream.StreamConfig) (want *jetstream.StreamConfig, conflicts []FieldConflict) {
	next, changed := have, false
	clash := func(field string, have, want any) {
		conflicts = append(conflicts, FieldConflict{field, fmt.Sprint(have), fmt.Sprint(want)})
	}
	if added := missing(c.Subjects, have.Subjects); len(added) > 0 {
		next.Subjects, changed = slices.Concat(have.Subjects, added), true
	}
	if removed := missing(have.Subjects, c.Subjects); len(c.Subjects) > 0 && len(removed) > 0 {
		clash("Subjects", strings.Join(have.Subjects, " "), strings.Join(c.Subjects, " "))
	}
	if c.Storage != AutoStorage && (c.Storage == MemoryStorage) != (have.Storage == jetstream.MemoryStorage) {
		clash("Storage", have.Storage, map[Storage]string{FileStorage: "File", MemoryStorage: "Memory"}[c.Storage])
	}
	if c.Replicas != 0 && c.Replicas != have.Replicas {
		next.Replicas, changed = c.Replicas, true
	}
	if c.Duplicates != 0 && c.Duplicates != have.Duplicates {
		next.Duplicates, changed = c.Duplicates, true
	}
	raise(&next.MaxMsgs, c.MaxMsgs, &changed, func() { clash("MaxMsgs", have.MaxMsgs, c.MaxMsgs) })
	raise(&next.MaxBytes, c.MaxBytes, &changed, func() { clash("MaxBytes", have.MaxBytes, c.MaxBytes) })
	raise(&next.MaxAge, c.MaxAge, &changed, func() { clash("MaxAge", have.MaxAge, c.MaxAge) })
	if !changed {
		return nil, conflicts
	}
	return &next, conflicts
}

// raise sets a limit to want if that is higher, where nothing positive means no
// limit at all, and calls clash if it is lower.
func raise[N int64 | time.Duration](limit *N, want N, changed *bool, clash func()) {
	switch {
	case want == 0 || want == *limit:
	case *limit <= 0 || want < *limit:
		clash()
	default:
		*limit, *changed = want, true
	}
}

// missing returns what of a is not in b.
func missing(a, b []string) []string {
	var m []string
	for _, s := range a {
		if !slices.Contains(b, s) {
			m = append(m, s)
		}
	}
	return m
}

// streamError wraps the server's answer about a stream.
func streamError(name, op string, err error) error {
	var refused *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, nats.ErrNoResponders):
		err = fmt.Errorf("%w: declare it with Bus.Stream (%v)", ErrStreamNotFound, err)
	case !errors.As(err, &refused):
		err = translate(err)
	}
	return &StreamError{Stream: name, Op: op, Err: err}
}

// Ack says where a message was stored.
type Ack struct {
	Stream    string
	Sequence  uint64 // from 1
	Duplicate bool   // a message with this MsgID was there already, at Sequence
}

// PublishTo stores v in the stream st and waits until that is done: nil means
// stored, as safely as the stream's storage and WithSync say. s must be one of
// the stream's subjects.
//
// With MsgID the same message is stored once within the stream's Duplicates
// window, and PublishTo repeats itself until it knows the outcome or ctx ends.
// Without it a lost answer is ErrUnknownOutcome.
//
// Errors: ErrStreamNotFound, ErrUnknownOutcome, ErrTimeout, ErrClosed,
// *StreamError (the server's refusal), *SubjectError, *CodecError,
// *ValidationError, *PayloadError, *OptionError.
func PublishTo[T any](ctx context.Context, st *Stream, s Subject[T], v T, opts ...StoreOption) (*Ack, error) {
	if err := st.callable(ctx, "PublishTo"); err != nil {
		return nil, err
	}
	b := st.bus
	o, err := storeOptions(opts)
	if err != nil {
		return nil, b.refused(err)
	}
	m, err := encode(b.format, string(s), v, o)
	if err == nil {
		err = checkSize(&m, b.link.MaxPayload()-payloadReserve)
	}
	if err == nil {
		err = st.stores(string(s))
	}
	if err != nil {
		return nil, b.refused(err)
	}
	return st.store(ctx, &m)
}

func (s *Stream) callable(ctx context.Context, call string) error {
	if s == nil {
		return &ArgumentError{Func: call, Arg: "stream", Reason: "is nil; did Stream or LookupStream fail?"}
	}
	return s.bus.callable(ctx, call)
}

// stores returns an error unless the stream stores subj.
func (s *Stream) stores(subj string) error {
	if slices.ContainsFunc(s.subjects, func(p string) bool { return subject.Matches(p, subj) }) {
		return nil
	}
	return &SubjectError{Subject: subj, Reason: fmt.Sprintf("stream %q does not store it", s.name),
		Hint: "it stores " + strings.Join(s.subjects, ", ")}
}

func (s *Stream) store(ctx context.Context, m *outlet.Message) (*Ack, error) {
	ctx, done := s.bus.bound(ctx)
	ack, err := s.bus.outlet.Store(ctx, m)
	done()
	if err != nil {
		return nil, streamError(s.name, "publish", err)
	}
	if ack.Stream != s.name {
		return nil, &StreamError{Stream: s.name, Op: "publish", Err: fmt.Errorf("stream %q stored the message instead: the subjects were moved, look the stream up again", ack.Stream)}
	}
	return &Ack{Stream: ack.Stream, Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
}
