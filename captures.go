package bus

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/subject"
)

// captures knows which subjects are stored by the streams this bus has met. What
// others change on the server meanwhile it does not know; who refuses something on
// its word asks first (Bus.stillCaptures).
type captures struct {
	known     atomic.Pointer[known] // replaced as a whole, so that readers take no lock
	mu        sync.Mutex            // writers of known
	reported  sync.Map              // subjects of which an event has told
	count     atomic.Int64          // of reported
	declaring lifecycle.Mutex       // of Bus.Stream, which reads a configuration and writes it back
}

// known is what is known at one time.
type known struct {
	streams  map[string]*capture // by name
	patterns map[string]*capture // by what they store
	tree     *subject.Tree       // of the patterns
}

// capture is what a stream stores.
type capture struct {
	stream   string
	subjects []string
	silent   bool // it stores without an acknowledgement
}

// set notes what a stream stores, and reports whether that is new.
func (c *captures) set(next *capture) bool {
	return c.change(func(streams map[string]*capture) bool {
		have := streams[next.stream]
		streams[next.stream] = next
		return have == nil || have.silent != next.silent || !slices.Equal(have.subjects, next.subjects)
	})
}

// remove forgets a stream, and reports whether it was known.
func (c *captures) remove(stream string) bool {
	return c.change(func(streams map[string]*capture) bool {
		have := streams[stream]
		delete(streams, stream)
		return have != nil
	})
}

// change replaces what is known by what f makes of a copy of it, where f returns
// true.
func (c *captures) change(f func(streams map[string]*capture) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := &known{streams: make(map[string]*capture), patterns: make(map[string]*capture)}
	if now := c.known.Load(); now != nil {
		maps.Copy(next.streams, now.streams)
	}
	if !f(next.streams) {
		return false
	}
	for _, s := range next.streams {
		for _, p := range s.subjects {
			next.patterns[p] = s
		}
	}
	next.tree = subject.NewTree(slices.Collect(maps.Keys(next.patterns)))
	c.known.Store(next)
	return true
}

// find returns what captures the literal subject, or nil.
func (c *captures) find(subj string) *capture {
	now := c.known.Load()
	if now == nil {
		return nil
	}
	p := now.tree.Find(subj)
	if p == "" {
		return nil
	}
	return now.patterns[p]
}

// mostReported bounds the memory for subjects with identifiers in them.
const mostReported = 1024

// wasReported reports whether subj need not be reported any more.
func (c *captures) wasReported(subj string) bool {
	_, done := c.reported.Load(subj)
	return done || c.count.Load() >= mostReported
}

// reportOnce reports whether subj is to be reported now.
func (c *captures) reportOnce(subj string) bool {
	_, done := c.reported.LoadOrStore(strings.Clone(subj), struct{}{})
	if !done {
		c.count.Add(1)
	}
	return !done
}

// stillCaptures is find, after the server has been asked whether it is still so:
// somebody may have deleted the stream or changed its subjects. Where the server
// does not say, what is known counts.
func (b *Bus) stillCaptures(ctx context.Context, subj string) *capture {
	c := b.captures.find(subj)
	for range 4 { // several streams may have had it, one after the other
		if c == nil || !b.learn(ctx, c.stream) {
			break
		}
		c = b.captures.find(subj)
	}
	return c
}

// learn asks the server for a stream that is known, and reports whether it is
// another one than was known.
func (b *Bus) learn(ctx context.Context, name string) bool {
	if !b.core.Link.Conn().IsConnected() {
		return false
	}
	ctx, cancel := b.core.WithTimeout(ctx)
	defer cancel()
	st, err := b.core.JetStream.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return b.captures.remove(name)
	}
	return err == nil && b.captures.set(captureOf(st.CachedInfo()))
}

func captureOf(info *jetstream.StreamInfo) *capture {
	return &capture{stream: info.Config.Name, subjects: slices.Clone(info.Config.Subjects), silent: info.Config.NoAck}
}
