package bus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// DeclareOption is an option of Bus.Stream and Stream.Plan.
type DeclareOption interface{ onDeclare(*declareOptions) }

type declareOptions struct {
	shrink bool
	optionErrors
}

type declareOption func(*declareOptions)

func (f declareOption) onDeclare(o *declareOptions) { f(o) }

// AllowShrink makes also the changes that remove messages or make them less safe:
// lower limits, a shorter age, InterestRetention, fewer subjects, sources, copies, a
// shorter window for duplicates. Stream.Plan says beforehand what they remove.
func AllowShrink() DeclareOption {
	return declareOption(func(o *declareOptions) { o.shrink = true })
}

// Stream makes sure that the stream exists as c says, and returns it. On an
// existing stream only changes are made that cannot remove a stored message or
// make it less safe: more subjects, higher limits, more copies, a longer window for
// duplicates. Everything else is a *StreamConflictError that says what would be
// removed, and nothing is changed, unless AllowShrink allows it. What the server
// cannot change at all, as the storage, stays a conflict.
//
// Where several versions of a program declare a stream, the one with the highest
// Revision decides. One with a lower revision than the stream's gets it as it is.
// Without a revision, or with the stream's own, no field but Description and
// Metadata goes back to a value that it had before: that is a conflict, too, since
// two versions would undo each other's changes at each start.
//
// Calls at the same time take turns within a bus, and each looks afterwards whether
// its change has lasted. Of two processes that change a stream within the same
// milliseconds one may still lose its change; it makes it at its next start.
//
// Other errors: *OptionError and *SubjectError about c, *UnsupportedError for
// what the server is too old for, *StreamError (the server's own), ErrTimeout,
// ErrClosed.
func (b *Bus) Stream(ctx context.Context, c StreamConfig, opts ...DeclareOption) (*Stream, error) {
	if err := b.callable(ctx, "Stream"); err != nil {
		return nil, err
	}
	o := new(declareOptions)
	if err := applyAll(opts, o, DeclareOption.onDeclare); err != nil {
		return nil, err
	}
	if err := errors.Join(c.check(), b.hasDisk(c.Storage == FileStorage)); err != nil {
		return nil, err
	}
	b.logMemoryOnce()
	ctx, cancel := b.core.WithTimeout(ctx)
	defer cancel()
	info, err := b.declare(ctx, &c, o.shrink)
	if err != nil {
		return nil, err
	}
	return b.streamOf(info), nil
}

// hasDisk refuses a stream on disk where the bus has none.
func (b *Bus) hasDisk(onDisk bool) error {
	if onDisk && b.core.InMemory {
		return badStreamField("Storage", "FileStorage", "this bus keeps its streams in memory; add WithStoreDir, or leave the field out")
	}
	return nil
}

// declareTries is how often a change that others overwrote is made.
const declareTries = 5

// declare creates or changes the stream. The server knows no change that depends on
// what was there: who reads, adds and writes at the same time as another undoes the
// other's change. So the calls of a bus take turns, and each looks whether its change
// has lasted.
func (b *Bus) declare(ctx context.Context, c *StreamConfig, shrink bool) (info *jetstream.StreamInfo, err error) {
	unlock, err := b.declaring.Lock(ctx)
	if err != nil {
		return nil, streamError(c.Name, "declare", err)
	}
	defer unlock()
	for changed, try := true, 0; changed && try < declareTries; try++ {
		if info, changed, err = b.declareOnce(ctx, c, shrink); err != nil {
			return nil, err
		}
	}
	return info, nil
}

// declareOnce reports whether it changed a stream that was there.
func (b *Bus) declareOnce(ctx context.Context, c *StreamConfig, shrink bool) (info *jetstream.StreamInfo, changed bool, err error) {
	st, err := b.core.JetStream.Stream(ctx, c.Name)
	for errors.Is(err, jetstream.ErrStreamNotFound) {
		if info, err = b.createStream(ctx, c); !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return info, false, err
		}
		st, err = b.nowThere(ctx, c.Name)
	}
	if err != nil {
		return nil, false, streamError(c.Name, "look up", err)
	}
	d, err := c.draft(st.CachedInfo().Config, shrink)
	switch {
	case err != nil:
		return nil, false, err
	case d.older:
		b.cfg.logger.Info("the stream stays as it is: a newer program has declared it", "stream", c.Name,
			"revision", c.Revision, "newer", revisionOf(d.have))
	case len(d.conflicts) > 0:
		return nil, false, &StreamConflictError{Stream: c.Name, Fields: d.conflicts, WouldRemove: removal(ctx, st, d.want)}
	}
	if d.nothing() {
		return st.CachedInfo(), false, nil
	}
	info, err = b.updateStream(ctx, d)
	return info, true, err
}

// beingMade is how long a stream that somebody else makes may be in the making: its
// name is taken then, and it cannot be looked up.
const beingMade = 5 * time.Millisecond

// nowThere looks a stream up that was not there a moment ago.
func (b *Bus) nowThere(ctx context.Context, name string) (jetstream.Stream, error) {
	select {
	case <-time.After(beingMade):
		return b.core.JetStream.Stream(ctx, name)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (b *Bus) createStream(ctx context.Context, c *StreamConfig) (*jetstream.StreamInfo, error) {
	base, want, err := b.fresh(c)
	if err != nil {
		return nil, err
	}
	fields := differing(base, want)
	if err := b.supports(ctx, want, fields); err != nil {
		return nil, err
	}
	st, err := b.core.JetStream.CreateStream(ctx, *want)
	if err != nil {
		return nil, refusal(c.Name, "create", err)
	}
	return st.CachedInfo(), stored(want, &st.CachedInfo().Config, fields)
}

// fresh is c as the configuration of a new stream, and that of one of which it says
// nothing.
func (b *Bus) fresh(c *StreamConfig) (base, want *jetstream.StreamConfig, err error) {
	base = &jetstream.StreamConfig{Name: c.Name, AllowDirect: true}
	if b.core.InMemory {
		base.Storage = jetstream.MemoryStorage
	}
	want = copyOfConfig(base)
	if err := c.layOver(want); err != nil {
		return nil, nil, err
	}
	note(want, c.Revision, nil)
	return base, want, b.hasDisk(want.Storage == jetstream.FileStorage)
}

func (b *Bus) updateStream(ctx context.Context, d *draft) (*jetstream.StreamInfo, error) {
	if err := b.supports(ctx, d.want, d.fields); err != nil {
		return nil, err
	}
	st, err := b.core.JetStream.UpdateStream(ctx, *d.want)
	if err != nil {
		return nil, refusal(d.want.Name, "update", err)
	}
	return st.CachedInfo(), stored(d.want, &st.CachedInfo().Config, d.fields)
}

// differing are the fields in which two configurations differ.
func differing(a, b *jetstream.StreamConfig) []*field {
	var fields []*field
	for i := range streamFields {
		if f := &streamFields[i]; f.show(a) != f.show(b) {
			fields = append(fields, f)
		}
	}
	return fields
}
