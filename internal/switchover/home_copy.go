package switchover

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server/archive"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/wire"
)

// A snapshot of a cluster does not have what is unacknowledged: it takes each consumer back to
// the last message before which everything is acknowledged. So the entries of the consumers are
// rewritten on the way, from what the cluster counts and from what this bus holds.

// positionLimit is how long the server that leads a consumer may take to count what all servers
// of the cluster have agreed on.
const positionLimit = time.Second

// position returns where a consumer is, or nil if nobody knows exactly what of it is out. Then
// it goes on from the snapshot.
//
// missing are the sequences that the stream does not have any more: the server does not wait for
// these, and the bus may still hold them. warn gets what comes again.
func (s *run) position(ctx context.Context, d *jetstream.ConsumerInfo, first, last uint64, missing map[uint64]bool, warn warner) (*consumerState, error) {
	held, ours := s.Home.Held(d.Stream, d.Name)
	held = slices.DeleteFunc(slices.Clone(held), func(h intake.Holding) bool { return h.Sequence < first || missing[h.Sequence] })
	if d.Config.AckPolicy == jetstream.AckNonePolicy {
		return nil, nil // nothing is out
	}
	for end := time.Now().Add(positionLimit); ; {
		switch counted := d.NumAckPending == len(held) && (len(held) > 0 || d.AckFloor.Consumer >= d.Delivered.Consumer); {
		case counted:
			return stateOf(d, held, last), nil
		case ours && time.Now().Before(end):
		case d.NumAckPending == 0:
			return nil, nil // the snapshot is exact
		default:
			warn("%d messages of consumer %s of stream %s are unacknowledged, and this bus holds %d of them: up to %d messages come again",
				d.NumAckPending, d.Name, d.Stream, len(held), d.Delivered.Stream-d.AckFloor.Stream)
			return nil, nil
		}
		if err := sleep(ctx, pollPause); err != nil {
			return nil, err
		}
		limited, cancel := context.WithDeadline(ctx, end)
		now, err := awaitConsumer(limited, s.Source, d.Stream, d.Name)
		cancel()
		if err == nil {
			d = now
		}
	}
}

// stateOf returns the state of a consumer of which exactly these messages are out. last is the
// last sequence of its stream.
//
// A server counts a message by its first delivery, and the bus knows the latest one. First
// deliveries are in the order of the stream, so a message that was delivered again gets the number
// after that of the message before it. With a higher one the server would move the floor past
// messages that are out, and not store that they were acknowledged: a restart would send them again.
func stateOf(d *jetstream.ConsumerInfo, held []intake.Holding, last uint64) *consumerState {
	p := &consumerState{Delivered: sequences{d.Delivered.Consumer, min(d.Delivered.Stream, last)}, AckFloor: sequences{d.AckFloor.Consumer, min(d.AckFloor.Stream, last)},
		Pending: make(map[uint64]*pending, len(held)), Redelivered: make(map[uint64]uint64)}
	held = slices.SortedFunc(slices.Values(held), func(a, b intake.Holding) int { return cmp.Compare(a.Sequence, b.Sequence) })
	first := p.AckFloor.Consumer
	for _, h := range held {
		if h.Sequence <= p.AckFloor.Stream || h.Sequence > last {
			continue // it is acknowledged, or of an earlier stream of that name
		}
		if first++; h.Deliveries == 1 {
			first = h.Delivery
		}
		p.Delivered.Consumer, p.Delivered.Stream = max(p.Delivered.Consumer, h.Delivery), max(p.Delivered.Stream, h.Sequence)
		p.Pending[h.Sequence] = &pending{Sequence: first, Timestamp: time.Now().UnixNano()}
		if h.Deliveries > 1 {
			p.Redelivered[h.Sequence] = h.Deliveries - 1
		}
	}
	return p
}

// warner gets a warning, as fmt.Sprintf does.
type warner func(format string, args ...any)

// positions returns where all consumers of a stream are, by their names.
func (s *run) positions(ctx context.Context, info *jetstream.StreamInfo, all []*jetstream.ConsumerInfo, warn warner) (map[string]*consumerState, error) {
	missing, err := deleted(ctx, s.sourceJS, info.Config.Name)
	if err != nil {
		return nil, err
	}
	known := make(map[string]*consumerState, len(all))
	for _, d := range all {
		if known[d.Name], err = s.position(ctx, d, info.State.FirstSeq, info.State.LastSeq, missing, warn); err != nil {
			return nil, fmt.Errorf("consumer %s of stream %s: %w", d.Name, d.Stream, err)
		}
	}
	return known, nil
}

// copyAllHome copies the streams. Those on disk come first: the embedded server syncs nothing
// while it gets them, and is started again then.
func (s *run) copyAllHome(ctx context.Context) error {
	if err := s.copyIn(ctx, jetstream.FileStorage); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	target, err := s.Home.Restart(ctx)
	if err != nil {
		return fmt.Errorf("the embedded server does not start again: %w", err)
	}
	s.Target = target
	if s.targetJS, err = jetstream.New(target); err != nil {
		return err
	}
	return s.copyIn(ctx, jetstream.MemoryStorage)
}

// copyIn copies the streams with a storage.
func (s *run) copyIn(ctx context.Context, storage jetstream.StorageType) error {
	those := slices.DeleteFunc(slices.Clone(s.infos), func(i *jetstream.StreamInfo) bool { return i.Config.Storage != storage })
	return each(those, func(info *jetstream.StreamInfo) error {
		err := s.copyOne(ctx, info)
		if err == nil {
			s.copied(info)
		}
		return err
	})
}

// copyHome copies a stream and rewrites its consumers. The old servers store nothing in it any
// more.
func (s *run) copyHome(ctx context.Context, info *jetstream.StreamInfo) error {
	positions, err := s.positionsHeld(ctx, info)
	if err != nil {
		return err
	}
	c, err := s.newCopier(info.Config.Name)
	if err != nil {
		return err
	}
	defer c.close()
	if _, err = c.begin(ctx, info); err == nil {
		err = s.passHome(ctx, c, info, positions)
	}
	if isFull(err) {
		err = fmt.Errorf("%w; make room on the disk here, or raise WithMaxStore or WithMaxMemory", err)
	}
	if err != nil {
		return fmt.Errorf("copy of stream %s: %w", c.name, err)
	}
	return nil
}

// positionsHeld returns positions while publishers wait, and records them.
func (s *run) positionsHeld(ctx context.Context, info *jetstream.StreamInfo) (map[string]*consumerState, error) {
	all, err := s.stillConsumers(ctx, info.Config.Name)
	if err != nil {
		return nil, err
	}
	positions, err := s.positions(ctx, info, all, s.warn)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.positionsOf == nil {
		s.positionsOf, s.copiedAt = make(map[string]map[string]*consumerState), make(map[string][]*jetstream.ConsumerInfo)
	}
	s.positionsOf[info.Config.Name], s.copiedAt[info.Config.Name] = positions, all
	return positions, nil
}

// stillConsumers returns the consumers of a stream when two answers about them are the same: a
// server of a cluster counts deliveries when the others have agreed, which is a little later.
func (s *run) stillConsumers(ctx context.Context, stream string) ([]*jetstream.ConsumerInfo, error) {
	var before map[string]string
	for {
		all, err := consumers(ctx, s.sourceJS, stream)
		if err != nil {
			return nil, err
		}
		now := make(map[string]string, len(all))
		for _, d := range all {
			now[d.Name] = position(d)
		}
		if maps.Equal(before, now) || s.Source.ConnectedClusterName() == "" {
			return all, nil
		}
		before = now
		if err := sleep(ctx, 10*pollPause); err != nil {
			return nil, err
		}
	}
}

// deliveredAt returns the number of the last delivery of a consumer when its position was looked
// up for good. known is false before that.
func (s *run) deliveredAt(d *jetstream.ConsumerInfo) (number uint64, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, was := range s.copiedAt[d.Stream] {
		if was.Name == d.Name {
			return was.Delivered.Consumer, true
		}
	}
	return 0, false
}

// passHome passes the entries of a snapshot on, with the consumers rewritten.
func (s *run) passHome(ctx context.Context, c *copier, info *jetstream.StreamInfo, positions map[string]*consumerState) error {
	out := &chunks{ctx: ctx, c: c}
	encoder := s2.NewWriter(out, s2.WriterConcurrency(1), s2.WriterBlockSize(chunkSize))
	from, to := archive.NewReader(s2.NewReader(&snapshotReader{ctx: ctx, c: c})), archive.NewWriter(encoder)
	var ids *dedup.StreamCollector
	if window := info.Config.Duplicates; window > 0 {
		ids = s.ids.Stream(c.name, wire.Incarnation(info.Config.Metadata, info.Created), window)
	}
	var body []byte
	for {
		h, err := from.Next()
		if err != nil {
			return fmt.Errorf("the snapshot: %w", err)
		}
		if isEnd(h) {
			break
		}
		if body, err = readBody(from, h, body); err != nil {
			return fmt.Errorf("the snapshot: %w", err)
		}
		if body, err = rewriteConsumer(h, body, positions); err != nil {
			return err
		}
		if ids != nil && h.HeaderSize > 0 {
			ids.Add(body[:h.HeaderSize], h.Sequence, h.Timestamp)
		}
		if err := to.WriteHeader(h); err != nil {
			return err
		}
		if _, err := to.Write(body); err != nil {
			return err
		}
	}
	if err := to.WriteHeader(&archive.Header{}); err != nil {
		return err
	}
	if err := encoder.Close(); err != nil {
		return err
	}
	if err := out.flush(); err != nil {
		return err
	}
	return c.end(ctx)
}

// rewriteConsumer rewrites the entry of a consumer. A server alone has one replica.
func rewriteConsumer(h *archive.Header, body []byte, positions map[string]*consumerState) ([]byte, error) {
	name, is := strings.CutPrefix(h.Name, consumerPrefix)
	if !is || h.Sequence != 0 {
		return body, nil
	}
	var entry, config map[string]json.RawMessage
	err := json.Unmarshal(body, &entry)
	if err == nil {
		err = json.Unmarshal(entry["config"], &config)
	}
	if err != nil {
		return nil, fmt.Errorf("consumer %s in the snapshot: %w", name, err)
	}
	config["num_replicas"] = json.RawMessage("0")
	if entry["config"], err = json.Marshal(config); err != nil {
		return nil, err
	}
	if p := positions[name]; p != nil {
		if entry["state"], err = json.Marshal(p); err != nil {
			return nil, err
		}
	}
	if body, err = json.Marshal(entry); err != nil {
		return nil, err
	}
	h.PayloadSize = int64(len(body))
	return body, nil
}

// chunks sends what is written in chunks.
type chunks struct {
	ctx context.Context
	c   *copier
	buf []byte
}

// Write implements io.Writer.
func (w *chunks) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	for len(w.buf) >= chunkSize {
		if err := w.c.send(w.ctx, w.buf[:chunkSize]); err != nil {
			return 0, err
		}
		w.buf = append(w.buf[:0], w.buf[chunkSize:]...)
	}
	return len(p), nil
}

// flush sends the rest.
func (w *chunks) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	err := w.c.send(w.ctx, w.buf)
	w.buf = nil
	return err
}

// cutHome cuts the bus off. The old servers are many: what one of them has counted, the others
// know a little later, so it waits until the streams stay as they are.
func (s *run) cutHome(ctx context.Context) error {
	infos, err := s.sources(ctx)
	if err != nil {
		return err
	}
	if err := s.Bus.Cut(ctx); err != nil {
		return err
	}
	if err := s.barrier(ctx, infos); err != nil {
		return err
	}
	for {
		if s.infos, err = s.sources(ctx); err != nil {
			return err
		}
		if slices.EqualFunc(infos, s.infos, sameState) {
			s.describe()
			return s.dropGone(ctx)
		}
		infos = s.infos
		if err := sleep(ctx, 10*pollPause); err != nil {
			return err
		}
	}
}

func sameState(a, b *jetstream.StreamInfo) bool {
	return a.Config.Name == b.Config.Name && same(a, b) && a.State.LastSeq == b.State.LastSeq
}

// verifyHome compares the copy of a stream with what was copied, and makes sure that the old
// servers have stored nothing since.
func (s *run) verifyHome(ctx context.Context, from *jetstream.StreamInfo) error {
	to, err := s.await(ctx, from)
	if err != nil {
		return fmt.Errorf("the copy of stream %s is not there: %w", from.Config.Name, err)
	}
	settles := from.Config.Retention != jetstream.LimitsPolicy // settlements that the stream had not seen remove messages
	if !storesItself(from) && to.State.LastSeq != from.State.LastSeq || !s.isVolatile(from) && (to.State.Msgs > from.State.Msgs || to.State.Msgs < from.State.Msgs && !settles) {
		return fmt.Errorf("the copy of stream %s has %d messages up to sequence %d, and not %d up to %d",
			from.Config.Name, to.State.Msgs, to.State.LastSeq, from.State.Msgs, from.State.LastSeq)
	}
	if err := s.isFenced(ctx, from); err != nil {
		return err
	}
	all, err := consumers(ctx, s.sourceJS, from.Config.Name)
	if err != nil {
		return err
	}
	for _, d := range all {
		if err := s.isUnused(d); err != nil {
			return err
		}
		if err := s.verifyConsumerHome(ctx, d, s.isVolatile(from)); err != nil {
			return err
		}
	}
	return nil
}

// verifyConsumerHome waits until the copy of a consumer takes settlements, and is where it should
// be.
func (s *run) verifyConsumerHome(ctx context.Context, from *jetstream.ConsumerInfo, volatile bool) error {
	if from.Config.AckPolicy == jetstream.AckNonePolicy {
		return nil
	}
	if err := answers(ctx, s.Target, from.Stream, from.Name); err != nil {
		return err
	}
	want := s.positionsOf[from.Stream][from.Name]
	if want == nil {
		return nil // it goes on from the snapshot
	}
	for {
		to, err := awaitConsumer(ctx, s.Target, from.Stream, from.Name)
		if err == nil && to.Delivered.Consumer == want.Delivered.Consumer && to.NumAckPending <= len(want.Pending) && (volatile || to.NumPending == from.NumPending) {
			return nil
		}
		if why := sleep(ctx, pollPause); why != nil {
			if to != nil {
				why = fmt.Errorf("the copy of consumer %s of stream %s differs: %s, and not delivered %d, unacknowledged %d, pending %d: %w",
					from.Name, from.Stream, position(to), want.Delivered.Consumer, len(want.Pending), from.NumPending, why)
			}
			return why
		}
	}
}
