package capture

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/subject"
)

// Stream is a stream that captures subjects.
type Stream struct {
	Name  string
	NoAck bool // it stores without an acknowledgement

	subjects []string
}

// Index finds the stream that captures a subject. Safe for concurrent use.
type Index struct {
	core    *core.Core
	current atomic.Pointer[snapshot] // replaced as a whole, so readers take no lock
	mu      sync.Mutex               // held by writers of current

	reported sync.Map     // subjects for which RegisterReport returned true
	reports  atomic.Int64 // number of subjects in reported
}

// New returns an empty index for the bus of c.
func New(c *core.Core) *Index { return &Index{core: c} }

// snapshot is the content of the index at one time. It is never changed.
type snapshot struct {
	streams  map[string]*Stream // by name
	patterns map[string]*Stream // by the patterns they store
	tree     *subject.Tree      // of the keys of patterns
}

// Set registers what a stream stores now.
func (x *Index) Set(info *jetstream.StreamInfo) { x.set(info) }

// set is Set, and reports whether the index changed.
func (x *Index) set(info *jetstream.StreamInfo) (changed bool) {
	next := &Stream{Name: info.Config.Name, NoAck: info.Config.NoAck, subjects: slices.Clone(info.Config.Subjects)}
	return x.replace(func(streams map[string]*Stream) bool {
		have := streams[next.Name]
		streams[next.Name] = next
		return have == nil || have.NoAck != next.NoAck || !slices.Equal(have.subjects, next.subjects)
	})
}

// Remove forgets a stream, and reports whether it was known.
func (x *Index) Remove(stream string) bool {
	return x.replace(func(streams map[string]*Stream) bool {
		_, known := streams[stream]
		delete(streams, stream)
		return known
	})
}

// replace lets change work on a copy of the known streams. If change returns true, the copy
// becomes current.
func (x *Index) replace(change func(streams map[string]*Stream) bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	next := &snapshot{streams: make(map[string]*Stream), patterns: make(map[string]*Stream)}
	if now := x.current.Load(); now != nil {
		maps.Copy(next.streams, now.streams)
	}
	if !change(next.streams) {
		return false
	}
	for _, s := range next.streams {
		for _, p := range s.subjects {
			next.patterns[p] = s
		}
	}
	next.tree = subject.NewTree(slices.Collect(maps.Keys(next.patterns)))
	x.current.Store(next)
	return true
}

// Find returns the known stream that captures a literal subject, or nil.
func (x *Index) Find(subj string) *Stream {
	now := x.current.Load()
	if now == nil {
		return nil
	}
	p := now.tree.Find(subj)
	if p == "" {
		return nil
	}
	return now.patterns[p]
}

// Overlapping returns the name of a known stream that captures subjects of a pattern and acknowledges
// what it stores, or "".
func (x *Index) Overlapping(pattern string) string {
	now := x.current.Load()
	if now == nil {
		return ""
	}
	for p, s := range now.patterns {
		if !s.NoAck && subject.Overlap(p, pattern) {
			return s.Name
		}
	}
	return ""
}

// maxMoves is how many streams Confirm asks for: a subject may have moved from one to the
// next.
const maxMoves = 4

// Confirm is Find, but asks the server first whether the stream still stores the subject.
// If the server does not answer, the index counts.
func (x *Index) Confirm(ctx context.Context, subj string) *Stream {
	s := x.Find(subj)
	for range maxMoves {
		if s == nil {
			break
		}
		if changed, _ := x.refresh(ctx, s.Name); !changed {
			break
		}
		s = x.Find(subj)
	}
	return s
}

// refresh asks the server about a stream, and reports whether the index changed.
func (x *Index) refresh(ctx context.Context, stream string) (changed bool, err error) {
	if !x.core.Connected() {
		return false, nats.ErrDisconnected
	}
	ctx, cancel := x.core.WithTimeout(ctx)
	defer cancel()
	st, err := x.core.JetStream.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return x.Remove(stream), err
	}
	return err == nil && x.set(st.CachedInfo()), err
}

// maxReported bounds the memory for reported subjects: subjects may contain identifiers.
const maxReported = 1024

// Reported reports whether a subject needs no report any more: it has been reported, or
// too many others have been.
func (x *Index) Reported(subj string) bool {
	_, done := x.reported.Load(subj)
	return done || x.reports.Load() >= maxReported
}

// RegisterReport registers that a subject is reported. It returns false if it was
// registered before.
func (x *Index) RegisterReport(subj string) bool {
	_, done := x.reported.LoadOrStore(strings.Clone(subj), struct{}{})
	if !done {
		x.reports.Add(1)
	}
	return !done
}
