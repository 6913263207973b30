package bus

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
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

	// What the stream can do besides. False leaves it as it is: once on, both stay on.
	AtomicBatches bool // it takes PublishToBatch; server 2.12 or newer
	MessageTTL    bool // it takes TTL; server 2.11 or newer
}

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

var streamName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)

// Stream makes sure that the stream exists as c says, and returns it. On an
// existing stream only changes are made that cannot remove a stored message or
// make it less safe: more subjects, higher limits, more copies, a longer window for
// duplicates. Everything else is a *StreamConflictError, and nothing is changed.
//
// Other errors: *OptionError and *SubjectError about c, *StreamError (the
// server's own), ErrTimeout, ErrClosed.
func (b *Bus) Stream(ctx context.Context, c StreamConfig) (*Stream, error) {
	if err := b.callable(ctx, "Stream"); err != nil {
		return nil, err
	}
	if err := errors.Join(c.check(), b.hasDisk(c)); err != nil {
		return nil, err
	}
	b.noteMemory()
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
	if s.bus.link.Conn().IsConnected() {
		ctx, cancel := s.bus.cfg.withTimeout(ctx)
		defer cancel()
		st, err := s.bus.js.Stream(ctx, s.name)
		if err != nil {
			return streamError(s.name, "look up", err)
		}
		if s.see(st.CachedInfo()); fits(s.content.Load()) {
			return nil
		}
	}
	return &SubjectError{Subject: subj, Reason: fmt.Sprintf("stream %q %s", s.name, not), Hint: s.content.Load().hint()}
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

// hasDisk refuses a stream on disk where the bus has none.
func (b *Bus) hasDisk(c StreamConfig) error {
	if c.Storage == FileStorage && b.inMemory() {
		return &OptionError{Option: "StreamConfig.Storage", Value: "FileStorage", Reason: "this bus keeps its streams in memory; add WithStoreDir, or leave the field out"}
	}
	return nil
}

// declareTries is how often a change that others overwrote is made.
const declareTries = 5

// declare creates or extends the stream. The server knows no change that depends on
// what was there: who reads, adds and writes at the same time as another undoes the
// other's change. So the calls of a bus take turns, and each looks whether its change
// has lasted.
func (b *Bus) declare(ctx context.Context, c StreamConfig) (info *jetstream.StreamInfo, err error) {
	done, err := b.captures.declaring.take(ctx)
	if err != nil {
		return nil, streamError(c.Name, "declare", err)
	}
	defer done()
	for changed, try := true, 0; changed && try < declareTries; try++ {
		if info, changed, err = b.declareOnce(ctx, c); err != nil {
			return nil, err
		}
	}
	return info, nil
}

// declareOnce reports whether it changed a stream that was there.
func (b *Bus) declareOnce(ctx context.Context, c StreamConfig) (info *jetstream.StreamInfo, changed bool, err error) {
	st, err := b.js.Stream(ctx, c.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		st, err = b.js.CreateStream(ctx, b.fresh(c))
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			if err != nil {
				return nil, false, streamError(c.Name, "create", err)
			}
			return st.CachedInfo(), false, nil
		}
		st, err = b.js.Stream(ctx, c.Name) // somebody else was faster
	}
	if err != nil {
		return nil, false, streamError(c.Name, "look up", err)
	}
	want, conflicts := c.over(st.CachedInfo().Config)
	if len(conflicts) > 0 {
		return nil, false, &StreamConflictError{Stream: c.Name, Fields: conflicts}
	}
	if want == nil {
		return st.CachedInfo(), false, nil
	}
	st, err = b.js.UpdateStream(ctx, *want)
	if err != nil {
		return nil, false, streamError(c.Name, "update", err)
	}
	return st.CachedInfo(), true, nil
}

// fresh is c as the configuration of a new stream.
func (b *Bus) fresh(c StreamConfig) jetstream.StreamConfig {
	js := jetstream.StreamConfig{Name: c.Name, Subjects: c.Subjects, Replicas: c.Replicas, MaxAge: c.MaxAge,
		MaxMsgs: unlimited(c.MaxMsgs), MaxBytes: unlimited(c.MaxBytes), Duplicates: c.Duplicates, AllowDirect: true,
		AllowAtomicPublish: c.AtomicBatches, AllowMsgTTL: c.MessageTTL}
	if c.Storage == MemoryStorage || c.Storage == AutoStorage && b.inMemory() {
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
	if c.AtomicBatches && !have.AllowAtomicPublish {
		next.AllowAtomicPublish, changed = true, true
	}
	if c.MessageTTL && !have.AllowMsgTTL {
		next.AllowMsgTTL, changed = true, true
	}
	if removed := missing(have.Subjects, c.Subjects); len(c.Subjects) > 0 && len(removed) > 0 {
		clash("Subjects", strings.Join(have.Subjects, " "), strings.Join(c.Subjects, " "))
	}
	if c.Storage != AutoStorage && (c.Storage == MemoryStorage) != (have.Storage == jetstream.MemoryStorage) {
		clash("Storage", have.Storage, map[Storage]string{FileStorage: "File", MemoryStorage: "Memory"}[c.Storage])
	}
	raise(&next.Replicas, c.Replicas, &changed, func() { clash("Replicas", have.Replicas, c.Replicas) })
	raise(&next.Duplicates, c.Duplicates, &changed, func() { clash("Duplicates", have.Duplicates, c.Duplicates) })
	widen(&next.MaxMsgs, c.MaxMsgs, &changed, func(have any) { clash("MaxMsgs", have, c.MaxMsgs) })
	widen(&next.MaxBytes, c.MaxBytes, &changed, func(have any) { clash("MaxBytes", have, c.MaxBytes) })
	widen(&next.MaxAge, c.MaxAge, &changed, func(have any) { clash("MaxAge", have, c.MaxAge) })
	if !changed {
		return nil, conflicts
	}
	return &next, conflicts
}

// raise sets a value to want if that is higher, and calls clash if it is lower.
// No want leaves it as it is.
func raise[N int | int64 | time.Duration](value *N, want N, changed *bool, clash func()) {
	switch {
	case want == 0 || want == *value:
	case want < *value:
		clash()
	default:
		*value, *changed = want, true
	}
}

// widen is raise for a limit, where nothing positive means no limit at all.
func widen[N int64 | time.Duration](limit *N, want N, changed *bool, clash func(have any)) {
	if want != 0 && *limit <= 0 {
		clash("unlimited")
		return
	}
	raise(limit, want, changed, func() { clash(*limit) })
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
func streamError(name, op string, err error) *StreamError {
	e := &StreamError{Stream: name, Op: op, Err: err}
	if refused, ok := errors.AsType[*jetstream.APIError](err); ok {
		e.Code, e.ErrorCode = refused.Code, int(refused.ErrorCode)
	} else if refused, ok := errors.AsType[*outlet.StoreError](err); ok {
		e.Code, e.ErrorCode = refused.Code, refused.ErrorCode
	}
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, nats.ErrNoResponders):
		e.Err = fmt.Errorf("%w: declare it with Bus.Stream (%v)", ErrStreamNotFound, err)
	case e.Code == 0:
		e.Err = translate(err)
	}
	return e
}
