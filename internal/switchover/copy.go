package switchover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
)

// keyMark is the metadata with the ID of the move, on copies that do not count yet.
const keyMark = "_omnibus.moving"

const (
	chunkSize    = 256 << 10        // of a snapshot, bytes
	windowSize   = 8 << 20          // of chunks that the old server sends ahead
	maxUnstored  = 8                // chunks that the new server has not confirmed
	chunkTimeout = 10 * time.Second // for a server that says nothing
)

// copier copies one stream: the old server sends chunks of a snapshot, and the new one
// restores them. It is used by one goroutine.
type copier struct {
	s        *run
	name     string
	chunks   chan *nats.Msg // from the old server
	replies  chan *nats.Msg // of the new one, to chunks
	from, to *nats.Subscription
	deliver  string        // where the new server takes chunks
	open     bool          // it has taken one
	out      int           // chunks without a reply
	patience time.Duration // for a server that says nothing
	ids      *idTap        // reads the message IDs that pass by

	mayOthers func() // ends the turn to make a stream; nil without one
}

func (s *run) newCopier(name string) (c *copier, err error) {
	c = &copier{s: s, name: name, chunks: make(chan *nats.Msg, 2*windowSize/chunkSize), replies: make(chan *nats.Msg, 2*maxUnstored), patience: chunkTimeout}
	if c.from, err = s.Source.ChanSubscribe(s.Source.NewInbox(), c.chunks); err != nil {
		return nil, err
	}
	if c.to, err = s.Target.ChanSubscribe(s.Target.NewInbox(), c.replies); err != nil {
		_ = c.from.Unsubscribe()
		return nil, err
	}
	return c, nil
}

// close ends the subscriptions, and so a snapshot that is under way.
func (c *copier) close() {
	if c.mayOthers != nil {
		c.mayOthers()
	}
	_ = c.from.Unsubscribe()
	_ = c.to.Unsubscribe()
}

// copy copies a stream. It is called after the cut, so the stream does not change.
func (s *run) copy(ctx context.Context, info *jetstream.StreamInfo) error {
	c, err := s.newCopier(info.Config.Name)
	if err != nil {
		return err
	}
	defer c.close()
	err = c.copy(ctx, info, func() error {
		_, err := c.begin(ctx, info)
		return err
	})
	if err != nil {
		return fmt.Errorf("copy of stream %s: %w", c.name, err)
	}
	return nil
}

// isFull reports whether a server has no room for a copy: within its limits, or on its disk.
func isFull(err error) bool {
	return jserr.IsFull(err) || err != nil && strings.Contains(err.Error(), "no space left on device")
}

// copy copies the stream. begin has both servers begin.
func (c *copier) copy(ctx context.Context, info *jetstream.StreamInfo, begin func() error) error {
	c.ids = c.s.tapIDs(info)
	err := begin()
	if err == nil {
		err = c.pipe(ctx)
	}
	forgotten := c.ids.end()
	if isFull(err) {
		err = fmt.Errorf("%w; make room there, or raise its max_file_store or max_memory_store", err)
	}
	if overlaps(err) {
		err = fmt.Errorf("%w; a subject has come to this stream from another one since the switch began: try again", err)
	}
	if err != nil {
		return err
	}
	if forgotten != nil {
		c.s.warn("the message IDs of stream %s are forgotten, a message that is published again is stored again: %v", c.name, forgotten)
	}
	return nil
}

// overlaps reports whether a server does not restore a stream because another one there stores one of its
// subjects. A server that has made it from the archive by then says so in a text.
func overlaps(err error) bool {
	return jserr.Is(err, jserr.SubjectsOverlap) || err != nil && strings.Contains(err.Error(), fmt.Sprintf("(%d)", jserr.SubjectsOverlap))
}

// begin has both servers begin. It returns the configuration of the stream, as the old server
// has it.
func (c *copier) begin(ctx context.Context, info *jetstream.StreamInfo) (json.RawMessage, error) {
	snapshot, err := c.snapshot(ctx, windowSize)
	if err != nil {
		return nil, err
	}
	config, err := c.s.configOfCopy(snapshot.Config, info)
	if err != nil {
		return nil, err
	}
	restore, err := c.restore(ctx, map[string]any{"config": config, "state": snapshot.State})
	if err != nil {
		return nil, fmt.Errorf("the restore: %w", err)
	}
	c.deliver = restore.Deliver
	return snapshot.Config, nil
}

// nameGrace is how long a cluster may take to give the name of an incomplete copy free.
const nameGrace = 2 * time.Second

// restore has the target begin a restore. An earlier attempt of this switch, which was given up
// or deleted, may still have the name for a moment.
func (c *copier) restore(ctx context.Context, body any) (reply apiReply, err error) {
	if c.s.makesInTurn() {
		if c.mayOthers, err = c.s.turn(ctx); err != nil {
			return reply, err
		}
	}
	for began := time.Now(); ; {
		reply, err = ask(ctx, c.s.Target, "$JS.API.STREAM.RESTORE."+c.name, body)
		if !jserr.Is(err, jserr.RestoreNameInUse) {
			c.s.owns(c.name, err)
			return reply, err
		}
		if time.Since(began) > nameGrace {
			return reply, err
		}
		if err := c.s.discard(ctx, c.name); err != nil {
			return reply, err
		}
		if err := sleep(ctx, 10*pollPause); err != nil {
			return reply, err
		}
	}
}

// snapshot has the old server send a snapshot, at most window bytes ahead.
func (c *copier) snapshot(ctx context.Context, window int) (apiReply, error) {
	reply, err := ask(ctx, c.s.Source, "$JS.API.STREAM.SNAPSHOT."+c.name,
		map[string]any{"deliver_subject": c.from.Subject, "chunk_size": min(chunkSize, window), "window_size": window})
	if err != nil {
		return reply, fmt.Errorf("the snapshot: %w", err)
	}
	return reply, nil
}

// configOfCopy returns the configuration of the copy of a stream: it has the replicas of the
// target, the mark of the switch, and the incarnation of the original.
func (s *run) configOfCopy(original json.RawMessage, info *jetstream.StreamInfo) (map[string]any, error) {
	var config map[string]any
	if err := json.Unmarshal(original, &config); err != nil {
		return nil, fmt.Errorf("the snapshot has no configuration that can be read: %w", err)
	}
	var has struct{ Metadata map[string]string }
	if err := json.Unmarshal(original, &has); err != nil {
		return nil, fmt.Errorf("the snapshot has no metadata that can be read: %w", err)
	}
	metadata := make(map[string]string)
	maps.Copy(metadata, has.Metadata)
	maps.DeleteFunc(metadata, func(key, _ string) bool { return strings.HasPrefix(key, "_nats.") }) // of the old server
	metadata[wire.KeyIncarnation] = wire.Incarnation(has.Metadata, info.Created)
	metadata[keyMark] = s.ID
	config["num_replicas"], config["metadata"] = s.report.Replicas, metadata
	if s.Home != nil {
		delete(metadata, wire.KeyMoved)
		delete(metadata, keyMark)
		delete(config, "placement")
		if subjects, fenced := s.subjectsOf(info.Config.Name); fenced {
			config["subjects"] = subjects
		}
	}
	return config, nil
}

// pipe sends the chunks on until the snapshot is complete, and waits until it is restored.
func (c *copier) pipe(ctx context.Context) error {
	for {
		chunk, err := c.next(ctx)
		if err != nil {
			return err
		}
		if chunk == nil {
			return c.end(ctx)
		}
		if err := c.send(ctx, chunk.Data); err != nil {
			return err
		}
		c.ids.write(chunk.Data)
		if err := c.taken(chunk); err != nil {
			return err
		}
	}
}

// taken tells the old server that there is room for another chunk.
func (c *copier) taken(chunk *nats.Msg) error {
	if chunk.Reply == "" {
		return nil // it was the last one
	}
	return c.s.Source.Publish(chunk.Reply, nil)
}

// end ends the restore by an empty chunk, and waits until the copy is there.
func (c *copier) end(ctx context.Context) error {
	if err := c.await(ctx, 0); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, chunkTimeout, errSilentTarget)
	defer cancel()
	_, err := ask(ctx, c.s.Target, c.deliver, nil)
	return err
}

// next returns the next chunk, or nil after the last one.
func (c *copier) next(ctx context.Context) (*nats.Msg, error) {
	select {
	case m := <-c.chunks:
		if len(m.Data) > 0 {
			return m, nil
		}
		if status := m.Header.Get("Status"); status != "" && status != "204" {
			return nil, fmt.Errorf("the snapshot ended early: %s %s", status, m.Header.Get("Description"))
		}
		return nil, nil
	case <-time.After(c.patience):
		return nil, errors.New("the old server sends no more of the snapshot")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// send sends a chunk. It waits for the reply to the first one: the server that the connection
// leads to may not know yet which server takes it. The others are sent ahead.
func (c *copier) send(ctx context.Context, data []byte) error {
	defer c.s.sent(len(data))
	if !c.open {
		if err := c.sendFirst(ctx, data); err != nil {
			return err
		}
		c.endTurn(ctx)
		return nil
	}
	if err := c.s.Target.PublishRequest(c.deliver, c.to.Subject, data); err != nil {
		return err
	}
	c.out++
	switch {
	case c.mayOthers != nil: // the target needs more to make the stream
		if err := c.await(ctx, 0); err != nil {
			return err
		}
		c.endTurn(ctx)
		return nil
	case c.out < maxUnstored:
		return nil
	}
	return c.await(ctx, maxUnstored/2)
}

func (c *copier) sendFirst(ctx context.Context, data []byte) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.patience, errSilentTarget)
	defer cancel()
	for {
		m, err := c.s.Target.RequestWithContext(ctx, c.deliver, data)
		switch {
		case err == nil:
			c.open = true
			return readReply(m.Data, new(apiReply))
		case !errors.Is(err, nats.ErrNoResponders):
			return because(ctx, err)
		}
		if err := sleep(ctx, pollPause); err != nil {
			return err
		}
	}
}

// await waits until at most so many chunks have no reply.
func (c *copier) await(ctx context.Context, most int) error {
	for c.out > most {
		select {
		case m := <-c.replies:
			c.out--
			if m.Header.Get("Status") == "503" {
				return errors.New("no server of the target takes the chunks any more")
			}
			if err := readReply(m.Data, new(apiReply)); err != nil {
				return err
			}
		case <-time.After(c.patience):
			return errors.New("the target does not confirm chunks any more")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
