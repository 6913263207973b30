package streamdef

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/wire"
	"github.com/omnibus-go/bus/switchover"
)

// Definition says what a program wants a stream to be.
type Definition struct {
	Name        string
	Revision    int  // 0 for none
	AllowShrink bool // also make changes that delete messages or weaken the stream

	// Overlay sets the wanted fields on js, which is the configuration on the server, or
	// that of a new stream with default values. It may be called more than once.
	Overlay func(js *jetstream.StreamConfig) error
}

// Declarer declares the streams of one bus. Safe for concurrent use.
type Declarer struct {
	core *core.Core
	turn lifecycle.Mutex // held for one declaration: it reads a configuration and writes it back
}

// New returns the Declarer of the bus of c.
func New(c *core.Core) *Declarer { return &Declarer{core: c} }

// maxAttempts is how often a declaration is made that other programs overwrite.
const maxAttempts = 5

// Declare creates or changes a stream so that it is as def says.
//
// The server has no "change this only if it is still so": a program that reads, adds and
// writes at the same time as another one undoes the other's change. So the declarations of
// a bus take turns, and each one looks again after a change, until there is nothing to do.
//
// Errors: *ConflictError, *UnsupportedError, ErrNoDisk, *jserr.Error, and what the overlay
// returned.
func (d *Declarer) Declare(ctx context.Context, def Definition) (*jetstream.StreamInfo, error) {
	unlock, err := d.turn.Lock(ctx)
	if err != nil {
		return nil, jserr.Wrap(def.Name, "declare", err)
	}
	defer unlock()
	var info *jetstream.StreamInfo
	for again, attempt := true, 0; again && attempt < maxAttempts; attempt++ {
		info, again, err = d.declareOnce(ctx, def)
		again = again && err == nil || isIgnored(err)
	}
	if err != nil {
		return nil, err
	}
	return info, nil
}

// declareOnce creates, changes or refuses the stream. It reports whether it changed a
// stream that existed. Declare calls it and holds the lock.
func (d *Declarer) declareOnce(ctx context.Context, def Definition) (info *jetstream.StreamInfo, changed bool, err error) {
	st, err := d.core.JetStream.Stream(ctx, def.Name)
	for errors.Is(err, jetstream.ErrStreamNotFound) {
		if info, err = d.create(ctx, def); !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return info, false, err
		}
		st, err = d.lookUpSoon(ctx, def.Name)
	}
	if err != nil {
		return nil, false, jserr.Wrap(def.Name, "look up", err)
	}
	if moved, committed := wire.Moved(st.CachedInfo().Config.Metadata); moved {
		return nil, false, &switchover.StreamMovedError{Stream: def.Name, Committed: committed}
	}
	c, err := compare(st.CachedInfo().Config, def)
	switch {
	case err != nil:
		return nil, false, err
	case c.older:
		d.core.Logger.Info("the stream stays as it is: a newer program has declared it", "stream", def.Name,
			"revision", def.Revision, "newer", revisionOf(c.have))
	case len(c.refused) > 0:
		return nil, false, &ConflictError{Stream: def.Name, Fields: c.refused, WouldRemove: estimateRemoval(ctx, st, c.want)}
	}
	if len(c.changes) == 0 {
		return st.CachedInfo(), false, nil
	}
	info, err = d.update(ctx, c)
	return info, true, err
}

// creationTime is how long another program's creation of a stream takes: meanwhile its name
// is taken, and it cannot be looked up.
const creationTime = 5 * time.Millisecond

// lookUpSoon looks up a stream that another program is creating.
func (d *Declarer) lookUpSoon(ctx context.Context, name string) (jetstream.Stream, error) {
	select {
	case <-time.After(creationTime):
		return d.core.JetStream.Stream(ctx, name)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// clusterReplicas is how many copies a new stream has in a cluster by default.
const clusterReplicas = 3

// create creates the stream. A server that ignores a field it does not know makes this an
// *UnsupportedError; then the stream exists without that field.
func (d *Declarer) create(ctx context.Context, def Definition) (*jetstream.StreamInfo, error) {
	base, want, err := d.newConfig(def)
	if err != nil {
		return nil, err
	}
	fields := differing(base, want)
	if err := d.checkLevel(ctx, want, fields); err != nil {
		return nil, err
	}
	st, err := d.createStream(ctx, want)
	if err != nil {
		return nil, refusal(def.Name, "create", d.explainOverlap(ctx, want, err))
	}
	return st.CachedInfo(), checkApplied(want, &st.CachedInfo().Config, fields)
}

// createStream creates the stream want. The default number of copies is that of a cluster only
// where there is one: a single server, too, can have the name of a cluster.
func (d *Declarer) createStream(ctx context.Context, want *jetstream.StreamConfig) (jetstream.Stream, error) {
	if want.Replicas != 0 || !d.core.Link.Clustered() {
		return d.core.CreateStream(ctx, *want)
	}
	want.Replicas = clusterReplicas
	st, err := d.core.CreateStream(ctx, *want)
	if refused, ok := errors.AsType[*jetstream.APIError](err); ok && refused.ErrorCode == jserr.ReplicasUnsupported {
		want.Replicas = 1
		return d.core.CreateStream(ctx, *want)
	}
	return st, err
}

// newConfig returns the configuration of a new stream: base without, want with the overlay.
func (d *Declarer) newConfig(def Definition) (base, want *jetstream.StreamConfig, err error) {
	base = &jetstream.StreamConfig{Name: def.Name, AllowDirect: true}
	if d.core.InMemory.Load() {
		base.Storage = jetstream.MemoryStorage
	}
	want = clone(base)
	if err := def.Overlay(want); err != nil {
		return nil, nil, err
	}
	setRevision(want, def.Revision)
	if d.core.InMemory.Load() && want.Storage == jetstream.FileStorage {
		return nil, nil, ErrNoDisk
	}
	return base, want, nil
}

// update makes the changes of c on the server.
func (d *Declarer) update(ctx context.Context, c *comparison) (*jetstream.StreamInfo, error) {
	if err := d.checkLevel(ctx, c.want, c.fields); err != nil {
		return nil, err
	}
	st, err := d.core.JetStream.UpdateStream(ctx, *c.want)
	if err != nil {
		return nil, refusal(c.want.Name, "update", d.explainOverlap(ctx, c.want, err))
	}
	return st.CachedInfo(), checkApplied(c.want, &st.CachedInfo().Config, c.fields)
}

const (
	keyRevision = "_omnibus.revision" // the revision of the stream's definition, decimal
	keyPast     = "_omnibus.past"     // of development versions; ignored, and removed with the next change
)

// Reserved reports whether a key of a stream's metadata belongs to the server or to the
// library.
func Reserved(key string) bool {
	return strings.HasPrefix(key, "_nats.") || strings.HasPrefix(key, "_omnibus.")
}

// showMetadata shows the metadata of the program, without reserved keys.
func showMetadata(js *jetstream.StreamConfig) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(js.Metadata)) {
		if !Reserved(key) {
			pairs = append(pairs, fmt.Sprintf("%q: %q", key, js.Metadata[key]))
		}
	}
	return "{" + strings.Join(pairs, ", ") + "}"
}

// revisionOf returns the revision of a stream, 0 for none.
func revisionOf(js *jetstream.StreamConfig) int {
	n, _ := strconv.Atoi(js.Metadata[keyRevision])
	return n
}

// setRevision writes the library's part of the metadata of js.
func setRevision(js *jetstream.StreamConfig, revision int) {
	metadata := make(map[string]string, len(js.Metadata)+1)
	maps.Copy(metadata, js.Metadata)
	delete(metadata, keyPast)
	if revision > 0 {
		metadata[keyRevision] = strconv.Itoa(revision)
	}
	js.Metadata = metadata
}
