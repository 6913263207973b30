package switchover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A cluster elects the leader of a stream when a restore begins, which takes longer than to copy a
// small stream. So the restores of all streams that are copied in the hold begin before it. Until
// then they get nothing but padding. The target has their names, and no stream that anybody could use.

// openLimit is how long the target may take to elect the leader of a stream while publishers go on.
const openLimit = 10 * time.Second

var errNoLeader = fmt.Errorf("the target elected no leader for it within %v", openLimit)

// opened is a restore that has begun before the hold.
//
// One goroutine, which runs keep, has it until done is closed; then the one that calls fill, or
// remove.
type opened struct {
	*copier
	created time.Time       // of the stream
	config  json.RawMessage // of the stream, when the restore began
	end     context.CancelFunc
	done    chan struct{}
	lost    error // why the restore is open no more; valid when done is closed
	filled  bool  // it has got the stream, or some of it
}

// openAll begins the restores of the streams that are copied in the hold.
func (s *run) openAll(ctx context.Context) error {
	if !s.opensEarly() {
		return nil
	}
	return each(s.infos, func(info *jetstream.StreamInfo) error {
		if s.isLive(info) {
			return nil
		}
		o, err := s.openEarly(ctx, info)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil // it was deleted since
		}
		if err != nil {
			return fmt.Errorf("the restore of stream %s: %w", info.Config.Name, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.opened[info.Config.Name] = o
		return nil
	})
}

// opensEarly reports whether the target elects leaders.
func (s *run) opensEarly() bool { return s.Home == nil && s.report.Replicas > 1 }

// openEarly begins the restore of one stream.
func (s *run) openEarly(ctx context.Context, info *jetstream.StreamInfo) (*opened, error) {
	limited, cancel := context.WithTimeoutCause(ctx, openLimit, errNoLeader)
	defer cancel()
	config, err := s.configNow(limited, info.Config.Name)
	if err != nil {
		return nil, err
	}
	body, err := s.configOfCopy(config, info)
	if err != nil {
		return nil, err
	}
	c, err := s.newCopier(info.Config.Name)
	if err != nil {
		return nil, err
	}
	s.begun(c.name)
	restore, err := c.restore(limited, map[string]any{"config": body, "state": json.RawMessage("{}")})
	if err == nil {
		c.deliver, c.patience = restore.Deliver, livePatience
		err = c.sendFirst(limited, []byte(padding))
	}
	if err != nil {
		c.close()
		return nil, err
	}
	ctx, end := context.WithCancel(ctx)
	o := &opened{copier: c, created: info.Created, config: config, end: end, done: make(chan struct{})}
	go o.keep(ctx) // ends with fill or remove
	return o, nil
}

// configNow returns the configuration of a stream, as its snapshots have it.
func (s *run) configNow(ctx context.Context, name string) (json.RawMessage, error) {
	c, err := s.newCopier(name)
	if err != nil {
		return nil, err
	}
	defer c.close()
	reply, err := c.snapshot(ctx, chunkSize/4)
	return reply.Config, err
}

// keep has the target keep the restore open, until ctx ends.
func (o *opened) keep(ctx context.Context) {
	defer close(o.done)
	for sleep(ctx, padAfter) == nil {
		if err := o.isOpen(ctx); err != nil && ctx.Err() == nil {
			o.lost = err
			return
		}
	}
}

var errAnswers = errors.New("another server leads the stream, which is empty")

// isOpen returns an error unless the target waits for the stream. It has the target wait longer. A
// server that has lost the lead goes on to take what is sent to it; then somebody answers for the
// stream.
func (o *opened) isOpen(ctx context.Context) error {
	if _, err := look(ctx, o.s.targetJS, o.name); err == nil {
		return errAnswers
	}
	return o.sendFirst(ctx, []byte(padding))
}

// fill copies the stream in the hold. info is the stream as it stays.
func (o *opened) fill(ctx context.Context, info *jetstream.StreamInfo) error {
	o.release()
	defer o.close()
	return o.copy(ctx, info, func() error { return o.beginOpened(ctx, info) })
}

// release ends keep.
func (o *opened) release() {
	o.end()
	<-o.done
}

// beginOpened has the old server begin. The target has begun before.
func (o *opened) beginOpened(ctx context.Context, info *jetstream.StreamInfo) error {
	if o.lost == nil {
		o.lost = o.isOpen(ctx)
	}
	if o.lost != nil {
		return &errChanged{fmt.Sprintf("the target has given the restore up (%v)", o.lost)}
	}
	if !info.Created.Equal(o.created) {
		return &errChanged{"the stream was deleted and created again"}
	}
	snapshot, err := o.snapshot(ctx, windowSize)
	if err != nil {
		return err
	}
	if !bytes.Equal(snapshot.Config, o.config) {
		return &errChanged{"the configuration of the stream has changed"}
	}
	o.filled, o.patience = true, chunkTimeout
	return nil
}

// openedOf returns the restore of a stream that has begun before the hold, or nil.
func (s *run) openedOf(name string) *opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened[name]
}

// removeOpened deletes a restore that has got nothing: nobody answers for it. It reports whether
// that was done.
func (s *run) removeOpened(ctx context.Context, name string) bool {
	o := s.openedOf(name)
	if o == nil || o.filled {
		return false
	}
	s.mu.Lock()
	delete(s.opened, name) // its server goes on to take padding
	s.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, 2*pollLimit)
	defer cancel()
	return o.isOpen(limited) == nil && s.deleteOwn(ctx, name)
}

// allOpened returns the restores that have begun before the hold.
func (s *run) allOpened() map[string]*opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.opened)
}

// dropOpened deletes what the target has of streams that were deleted since their restores began.
func (s *run) dropOpened(ctx context.Context) error {
	for name, o := range s.allOpened() {
		if slices.Contains(s.report.Streams, name) {
			continue
		}
		o.release()
		o.close()
		if err := s.removeOne(ctx, name); err != nil {
			return fmt.Errorf("the restore of stream %s, which was deleted: %w", name, err)
		}
		s.forget(name)
	}
	return nil
}

// abandonOpened ends the restores that have got nothing. Their names stay until they are deleted.
func (s *run) abandonOpened() {
	for _, o := range s.allOpened() {
		o.release()
		o.close()
	}
}
