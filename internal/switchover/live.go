package switchover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server/archive"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/internal/wire"
)

const (
	// snapshotMessages and snapshotBytes are about what all streams together may have that
	// are copied while publishers wait: that takes about 200 ms.
	snapshotMessages = 20_000
	snapshotBytes    = 32 << 20

	livePatience = 3500 * time.Millisecond // the target gives a restore up after 5 s without a chunk
	followPause  = 50 * time.Millisecond   // between two looks for what was stored meanwhile
	padAfter     = time.Second             // a restore gets something that often
	shortRest    = 100 * time.Millisecond  // what takes less to send may be left for the hold
	maxFollow    = 20 * time.Second        // then publishers are faster than the copy, and the rest is left all the same
)

// live copies one stream while publishers go on: a snapshot first, without its end, then
// what was stored since, message by message. The restore at the target stays open meanwhile.
// finish ends it, in the hold. The consumers of the stream are held all the time, so their
// state is that of the snapshot but for settlements.
//
// One goroutine, which runs follow, has it until done is closed; then the one that calls
// finish or abort.
type live struct {
	*copier
	info   *jetstream.StreamInfo
	config json.RawMessage            // of the stream, when the copy began
	before map[string]consumerAtStart // its consumers, as the target restores them
	at     map[string]*consumerState  // on the way home: where they are, see positions
	last   uint64                     // the sequence of the last message that was sent
	sent   uint64                     // how many messages were sent
	known  *dedup.StreamCollector     // gathers the message IDs; nil if the stream knows none

	ctx     context.Context // of what is under way; a writer gets none
	buf     []byte          // waits to make a chunk
	encoder *s2.Writer
	archive *archive.Writer
	sentAt  time.Time // the last chunk
	counted uint64    // of sent, in the progress; belongs to run.mu

	caughtUp atomic.Bool   // little is left to send
	stop     chan struct{} // ends follow
	done     chan struct{} // it has ended
	err      error         // why; valid then
	left     error         // why the copy is made in the hold instead; valid then
}

// run copies the stream, and once more from the beginning if that fails.
func (l *live) run(ctx context.Context, s *run, turns chan struct{}) {
	defer close(l.done)
	for attempt := 1; ; attempt++ {
		if l.err = l.attempt(ctx, s, turns); l.err == nil {
			return
		}
		l.left = leaves(l.err)
		l.err = fmt.Errorf("copy of stream %s: %w", l.info.Config.Name, because(ctx, l.err))
		l.caughtUp.Store(false)
		s.count(l, 0)
		l.abort()
		if l.left != nil {
			l.err = nil
			return
		}
		if s.holding() { // the hold has a copy of its own begin anew, and waits for no other
			l.left, l.err = l.err, nil
			return
		}
		if ctx.Err() != nil || attempt == 2 || l.stopped() {
			return
		}
		if err := s.removeBegun(ctx, l.info.Config.Name); err != nil {
			return
		}
	}
}

// holding reports whether publishers wait.
func (s *run) holding() bool {
	select {
	case <-s.unpaced:
		return true
	default:
		return false
	}
}

// leaves returns why a copy that has failed with err is made in the hold, if the stream is there
// then. It returns nil if it is to begin anew.
func leaves(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return &errChanged{"the stream was deleted and created again"}
	}
	if changed, ok := errors.AsType[*errChanged](err); ok {
		return changed
	}
	return nil
}

// removeBegun deletes what the target has of a copy that is about to begin anew.
func (s *run) removeBegun(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, returnLimit)
	defer cancel()
	return s.removeOne(ctx, name)
}

func (l *live) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

func (l *live) attempt(ctx context.Context, s *run, turns chan struct{}) (err error) {
	info, err := s.lookHere(ctx, l.info.Config.Name) // it may have changed since the preflight
	if err != nil {
		return err
	}
	if !s.canLive(info) {
		return &errChanged{"the stream is one of those that are copied while publishers wait"}
	}
	l.info = info
	if l.copier, err = s.newCopier(l.info.Config.Name); err != nil {
		return err
	}
	l.reset(ctx)
	turns <- struct{}{}
	err = l.bulk(ctx)
	<-turns
	if err != nil {
		return err
	}
	return l.follow(ctx)
}

// reset has l begin with nothing written.
func (l *live) reset(ctx context.Context) {
	l.patience, l.ctx = livePatience, ctx
	l.buf, l.sentAt = nil, time.Now()
	l.encoder = s2.NewWriter(l, s2.WriterConcurrency(1), s2.WriterBlockSize(chunkSize))
	l.archive = archive.NewWriter(l.encoder)
}

// abort has the target give the restore up, and ends the subscriptions. It may be called again.
func (l *live) abort() {
	if l.copier == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if l.deliver != "" {
		_, _ = ask(ctx, l.s.Target, l.deliver, nil) // without the end mark; if it does not arrive, the target gives up later
	}
	l.close()
	l.copier = nil
}

// bulk begins the restore and sends what a snapshot has, but for its end.
func (l *live) bulk(ctx context.Context) (err error) {
	l.before, l.last, l.sent, l.known = make(map[string]consumerAtStart), 0, 0, nil
	if l.s.Home != nil {
		if l.at, err = l.s.positionsLive(ctx, l.info); err != nil {
			return err
		}
	}
	if window := l.info.Config.Duplicates; window > 0 {
		l.known = l.s.ids.Stream(l.name, wire.Incarnation(l.info.Config.Metadata, l.info.Created), window)
	}
	limited, cancel := context.WithTimeoutCause(ctx, livePatience, errSilentTarget)
	defer cancel()
	if l.config, err = l.begin(limited, l.info); err != nil {
		return err
	}
	return l.pass(ctx, l.copier, func(h *archive.Header) bool { return true })
}

// bulkAgain sends what another snapshot has beyond the last message that was sent.
func (l *live) bulkAgain(ctx context.Context) error {
	c, err := l.s.newCopier(l.name)
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.snapshot(ctx, windowSize); err != nil {
		return err
	}
	return l.pass(ctx, c, func(h *archive.Header) bool { return h.Sequence > l.last })
}

// pass sends the entries of a snapshot that are wanted.
func (l *live) pass(ctx context.Context, c *copier, wanted func(*archive.Header) bool) error {
	from := archive.NewReader(s2.NewReader(&snapshotReader{ctx: ctx, c: c}))
	var body []byte
	for {
		h, err := from.Next()
		switch {
		case err != nil:
			return fmt.Errorf("the snapshot: %w", err)
		case isEnd(h):
			return l.flush()
		case !wanted(h):
			if err := l.keepOpen(); err != nil {
				return err
			}
			continue
		}
		if body, err = readBody(from, h, body); err != nil {
			return fmt.Errorf("the snapshot: %w", err)
		}
		if body, err = l.asThere(h, body); err != nil {
			return err
		}
		if err := noteConsumer(l.before, h, body); err != nil {
			return err
		}
		if err := l.entry(h, body); err != nil {
			return err
		}
	}
}

var errSilentTarget = errors.New("the target does not answer")

// entry sends one entry of the archive.
func (l *live) entry(h *archive.Header, body []byte) error {
	if err := l.keepOpen(); err != nil {
		return err
	}
	l.last = max(l.last, h.Sequence)
	if h.Sequence > 0 {
		l.sent++
	}
	if l.known != nil && h.HeaderSize > 0 {
		l.known.Add(body[:h.HeaderSize], h.Sequence, h.Timestamp)
	}
	if err := l.archive.WriteHeader(h); err != nil {
		return err
	}
	_, err := l.archive.Write(body)
	return err
}

// Write implements io.Writer for the encoder: it sends chunks.
func (l *live) Write(p []byte) (int, error) {
	l.buf = append(l.buf, p...)
	size := l.s.chunkSize()
	for len(l.buf) >= size {
		if err := l.chunk(l.buf[:size]); err != nil {
			return 0, err
		}
		l.buf = append(l.buf[:0], l.buf[size:]...)
	}
	return len(p), nil
}

func (l *live) chunk(data []byte) error {
	if err := l.s.pace(l.ctx, len(data)); err != nil {
		return err
	}
	l.sentAt = time.Now()
	l.s.count(l, l.sent)
	return l.send(l.ctx, data)
}

// flush sends everything that was written.
func (l *live) flush() error {
	if err := l.encoder.Flush(); err != nil {
		return err
	}
	if len(l.buf) == 0 {
		return nil
	}
	err := l.chunk(l.buf)
	l.buf = l.buf[:0]
	return err
}

// padding is the identifier of a stream in the S2 format. Readers skip it, and must find it first.
const padding = "\xff\x06\x00\x00S2sTwO"

// keepOpen has the target get something, if it got nothing for a while: messages that are easy
// to compress fill a chunk slowly, and those that it has are not sent at all.
func (l *live) keepOpen() error {
	if time.Since(l.sentAt) <= padAfter {
		return nil
	}
	if err := l.flush(); err != nil || time.Since(l.sentAt) <= padAfter {
		return err
	}
	return l.chunk([]byte(padding))
}

// follow sends what is stored in the stream, until stop is closed. It keeps the restore open.
func (l *live) follow(ctx context.Context) error {
	for began := time.Now(); ; {
		pass := time.Now()
		if err := l.catchUp(ctx); err != nil {
			return err
		}
		if time.Since(pass) < shortRest || time.Since(began) > maxFollow {
			l.caughtUp.Store(true)
		}
		if err := l.keepOpen(); err != nil {
			return err
		}
		select {
		case <-l.stop:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(followPause):
		}
	}
}

// catchUp sends what the stream has beyond the last message that was sent.
func (l *live) catchUp(ctx context.Context) error {
	info, err := l.s.lookHere(ctx, l.name)
	if err != nil {
		return err
	}
	if err := l.rest(ctx, info); err != nil {
		return err
	}
	return l.flush()
}

var errSilentSource = errors.New("the old server does not answer")

// lookHere asks the old server for a stream. A busy one may take a while to answer.
func (s *run) lookHere(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, livePatience/2, errSilentSource)
	defer cancel()
	return awaitStream(ctx, s.Source, name)
}

// rest sends the messages after the last one that was sent, up to that which info has as the
// last one. A snapshot that is read from the beginning takes about a tenth of the time for
// each message.
func (l *live) rest(ctx context.Context, info *jetstream.StreamInfo) error {
	if info.State.LastSeq > l.last && info.State.LastSeq-l.last > info.State.Msgs/10+maxAsked {
		if err := l.bulkAgain(ctx); err != nil {
			return err
		}
	}
	return l.tail(ctx, info)
}

// finish ends a copy in the hold: it sends what is left, and has the target do what has
// happened to messages and consumers since the copy began. info is the stream as it stays.
func (l *live) finish(ctx context.Context, info *jetstream.StreamInfo) (err error) {
	close(l.stop)
	select {
	case <-l.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if l.err != nil {
		return l.err
	}
	defer func() {
		if ctx.Err() == nil { // else publishers go on first
			l.abort()
		}
	}()
	if l.left != nil {
		return l.left
	}
	if !info.Created.Equal(l.info.Created) {
		return &errChanged{"the stream was deleted and created again"}
	}
	l.ctx = ctx
	if err := l.complete(ctx, info); err != nil {
		return fmt.Errorf("the end of the restore: %w", err)
	}
	l.deliver = "" // the restore has ended
	if err := l.isMade(ctx, info); err != nil {
		return err
	}
	if l.s.Home != nil {
		if l.at, err = l.s.positionsHeld(ctx, info); err != nil {
			return err
		}
	}
	now, err := l.consumersNow(ctx)
	if err != nil {
		return err
	}
	if err := l.settle(ctx, now); err != nil {
		return err
	}
	if err := l.removeDeleted(ctx, info); err != nil {
		return fmt.Errorf("the messages of the copy: %w", err)
	}
	return nil
}

// complete sends what is left and the end.
func (l *live) complete(ctx context.Context, info *jetstream.StreamInfo) error {
	if err := l.rest(ctx, info); err != nil {
		return err
	}
	if l.last < info.State.LastSeq { // the last messages have been removed
		if err := l.entry(skip(info.State.LastSeq)); err != nil {
			return err
		}
	}
	if err := l.archive.WriteHeader(&archive.Header{}); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	return l.end(ctx)
}

// endLimit is how long the target may take to answer for a stream when its restore has ended.
const endLimit = 3 * time.Second

var errLost = fmt.Errorf("the target has not had the whole copy within %v", endLimit)

// isMade returns an error unless the target has the copy: its server may have lost the lead while
// the restore was open. Somebody else's stream of that name must not be changed.
func (l *live) isMade(ctx context.Context, info *jetstream.StreamInfo) error {
	ctx, cancel := context.WithTimeoutCause(ctx, endLimit, errLost)
	defer cancel()
	there, err := l.s.await(ctx, info)
	if err == nil && l.s.Home == nil && there.Config.Metadata[keyMark] != l.s.ID {
		return errors.New("the target has another stream of that name now")
	}
	return err
}

// skip returns an entry that has the target leave out the sequences up to last: a message
// that has expired.
func skip(last uint64) (*archive.Header, []byte) {
	header := []byte("NATS/1.0\r\nNats-TTL: 1\r\n\r\n")
	return &archive.Header{Name: "skipped", Timestamp: 1, Sequence: last, HeaderSize: int64(len(header))}, header
}
