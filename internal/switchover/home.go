package switchover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/plural"
	"github.com/omnibus-go/bus/internal/wire"
	"github.com/omnibus-go/bus/switchover"
)

// Home is what differs when streams come home: from other servers, which other programs use, too,
// to the embedded one. The cut of the connection is no fence there, and copies need no mark,
// since the server that gets them begins empty and is thrown away if the switch fails.
type Home struct {
	From      string                // the URL of the old servers, without credentials
	Streams   func() []string       // that come home; others stay where they are. It changes until the hold
	Obstacles []switchover.Obstacle // that the bus has found

	// Journal records the subjects that the streams have at the old servers, just before those
	// lose them.
	Journal func(subjects map[string][]string) error
	// Freeze lists what the bus holds of the consumers of a stream, for Held. What it settles
	// afterwards waits until thaw, and the old servers have got everything else.
	Freeze func(ctx context.Context, stream string) (thaw func(), err error)
	// Held returns what the bus holds of a consumer since Freeze or the cut. known is false if it
	// takes no messages of it.
	Held func(stream, consumer string) (held []intake.Holding, known bool)
	// SyncAhead has what was copied until now on the disk, as far as it can until ctx ends, so that
	// Restart has less to do.
	SyncAhead func(ctx context.Context)
	// Restart starts the embedded server again, which has synced nothing until then, and
	// returns a connection to it. What it has in memory is gone. It returns when ctx ends, and
	// goes on.
	Restart func(ctx context.Context) (*nats.Conn, error)
}

// sources returns the streams that come home, as the old servers have them now, by their names. It asks
// for each: a list waits for the leaders of all other streams, too.
func (s *run) sources(ctx context.Context) (infos []*jetstream.StreamInfo, err error) {
	var mu sync.Mutex
	err = each(slices.Compact(slices.Sorted(slices.Values(s.Home.Streams()))), func(name string) error {
		info, err := awaitStream(ctx, s.Source, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return nil
		case err != nil:
			return fmt.Errorf("stream %s: %w", name, err)
		}
		mu.Lock()
		defer mu.Unlock()
		infos = append(infos, info)
		return nil
	})
	slices.SortFunc(infos, func(a, b *jetstream.StreamInfo) int { return cmp.Compare(a.Config.Name, b.Config.Name) })
	return infos, err
}

// checkHome looks for what is in the way of streams that come home. all are those of the old servers.
func (s *run) checkHome(ctx context.Context, all []*jetstream.StreamInfo) {
	if _, level := s.Source.ConnectedServerJetStream(); level < apiLevel {
		s.found("", fmt.Sprintf("the streams are at nats-server %s, which makes no snapshots that can be taken home", s.Source.ConnectedServerVersion()),
			"update its servers to 2.15 or newer")
		return
	}
	var staying []string
	ours := s.Home.Streams()
	for _, other := range all {
		if slices.Contains(ours, other.Config.Name) {
			continue
		}
		staying = append(staying, other.Config.Name)
		for _, origin := range origins(&other.Config) {
			if slices.Contains(ours, origin) {
				s.found(origin, fmt.Sprintf("stream %q, which stays, copies it", other.Config.Name), "delete that stream, or declare it, so that it comes along")
			}
		}
	}
	if len(staying) > 0 {
		s.warn("these streams stay, since this bus has not declared, looked up or consumed them: %v", staying)
	}
	for _, info := range s.infos {
		s.checkComesHome(ctx, info)
		s.checkMayTake(ctx, info.Config.Name)
	}
}

// checkMayTake finds out whether the user may fence a stream and take a snapshot of it: without
// an answer the streams would be fenced for long. The requests are refused, since they say nothing.
func (s *run) checkMayTake(ctx context.Context, stream string) {
	for _, q := range []struct{ request, what string }{
		{"UPDATE", "it cannot be changed"},
		{"SNAPSHOT", "no snapshot of it can be taken"},
		{"MSG.GET", "its messages cannot be read"},
	} {
		ctx, end := s.question(ctx)
		_, err := s.Source.RequestWithContext(ctx, "$JS.API.STREAM."+q.request+"."+stream, []byte("-"))
		err = because(ctx, err)
		end()
		if err != nil {
			s.failedHere(stream, q.what, err)
		}
	}
}

// origins returns the streams that a stream copies.
func origins(c *jetstream.StreamConfig) (names []string) {
	if c.Mirror != nil {
		names = append(names, c.Mirror.Name)
	}
	for _, source := range c.Sources {
		names = append(names, source.Name)
	}
	return names
}

// underWay is what to do about a stream that is fenced by a switch of which no commit is known here.
const underWay = "wait for that switch; if its bus has stopped, start that with its store directory; do not delete the stream there"

// checkComesHome looks for what is in the way of one stream.
func (s *run) checkComesHome(ctx context.Context, info *jetstream.StreamInfo) {
	c := &info.Config
	moved, committed := wire.Moved(c.Metadata)
	switch {
	case len(origins(c)) > 0:
		s.found(c.Name, "it copies other streams, whose servers the embedded one does not reach", "delete it, or remove its Mirror or Sources")
	case c.Sealed:
		s.found(c.Name, "it is sealed, so it cannot be changed to refuse settlements of other programs", "delete it if nobody needs it")
	case committed:
		s.found(c.Name, "another switch has taken it home", "delete the stream here")
	case moved:
		s.found(c.Name, "another switch is taking it home, or was interrupted", underWay)
	}
	for _, d := range s.consumersHere(ctx, c.Name) {
		s.checkConsumer(d, c)
	}
}

// checkConsumer looks for other clients of a consumer, and for what a restart of the embedded
// server would not keep. Consumers in memory that acknowledge nothing are made anew by their clients.
func (s *run) checkConsumer(d *jetstream.ConsumerInfo, c *jetstream.StreamConfig) {
	passing := d.Config.AckPolicy == jetstream.AckNonePolicy && c.Retention == jetstream.LimitsPolicy
	if d.Config.MemoryStorage && c.Storage == jetstream.FileStorage && !passing {
		s.found(c.Name, fmt.Sprintf("consumer %q is kept in memory, and the embedded server would lose it", d.Name), "delete it, or make it without MemoryStorage")
	}
	_, ours := s.Home.Held(d.Stream, d.Name)
	switch used := d.NumWaiting > 0 || d.PushBound; {
	case ours: // what else pulls from it is seen when the bus does not any more
	case used && d.Config.AckPolicy == jetstream.AckNonePolicy:
		s.warn("consumer %s of stream %s has clients; those that are not of this bus get nothing more", d.Name, d.Stream)
	case used:
		s.found(d.Stream, fmt.Sprintf("a client that is no Consume of this bus takes messages of consumer %q, and would not come along", d.Name), "stop it")
	case d.NumAckPending > 0:
		s.warn("%s of consumer %s of stream %s unacknowledged, and this bus does not consume it: up to %d messages of it come again at home",
			plural.Of(d.NumAckPending, "message is", "messages are"), d.Name, d.Stream, d.Delivered.Stream-d.AckFloor.Stream)
	}
}

// fence has the old servers store nothing more in the streams: it gives them other subjects.
// What was stored until then stays as it is, and consumers go on to take settlements.
func (s *run) fence(ctx context.Context) error {
	infos, err := s.sources(ctx)
	if err != nil {
		return err
	}
	subjects := make(map[string][]string, len(infos))
	for _, info := range infos {
		subjects[info.Config.Name] = info.Config.Subjects
	}
	if err := s.Home.Journal(subjects); err != nil {
		return err
	}
	s.mu.Lock()
	s.subjects, s.fencing, s.doubtful = subjects, infos, make(map[string]bool)
	s.mu.Unlock()
	return each(infos, func(info *jetstream.StreamInfo) error {
		if err := s.isLeftAlone(ctx, info.Config.Name); err != nil {
			return err
		}
		return s.fenceOne(ctx, info.Config)
	})
}

// isLeftAlone returns an error if another program takes messages from a stream, or has taken some
// since the positions of its consumers were looked up. The bus does not any more.
func (s *run) isLeftAlone(ctx context.Context, stream string) error {
	all, err := consumers(ctx, s.sourceJS, stream)
	if err != nil {
		return err
	}
	for _, d := range all {
		if err := s.isUnused(d); err != nil {
			return err
		}
	}
	return nil
}

// isUnused is isLeftAlone for one consumer.
func (s *run) isUnused(d *jetstream.ConsumerInfo) error {
	if d.Config.AckPolicy == jetstream.AckNonePolicy {
		return nil // what it takes stays
	}
	if delivered, known := s.deliveredAt(d); d.NumWaiting > 0 || d.PushBound || known && d.Delivered.Consumer > delivered {
		return fmt.Errorf("another program takes messages of consumer %s of stream %s, and would not come along; stop it", d.Name, d.Stream)
	}
	return nil
}

// updateLimit is how long one change of a stream may take.
const updateLimit = time.Second

// fenceOne fences a stream, and makes sure of that.
func (s *run) fenceOne(ctx context.Context, c jetstream.StreamConfig) error {
	s.doubt(c.Name, false)
	c.Metadata = maps.Clone(c.Metadata)
	if c.Metadata == nil {
		c.Metadata = make(map[string]string)
	}
	c.Metadata[wire.KeyMoved] = s.ID
	c.Subjects = s.fenceOf(c.Name)
	for {
		limited, cancel := context.WithTimeout(ctx, updateLimit)
		_, err := s.sourceJS.UpdateStream(limited, c)
		cancel()
		if err == nil {
			return nil
		}
		if limited.Err() == nil || sleep(ctx, 10*pollPause) != nil {
			s.doubt(c.Name, limited.Err() != nil)
			return fmt.Errorf("stream %s does not get other subjects: %w", c.Name, because(ctx, err))
		}
	}
}

// doubt says whether a change of a stream had no answer: then it may still come.
func (s *run) doubt(stream string, doubtful bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubtful[stream] = doubtful
}

// fenceOf returns what a fenced stream has instead of its subjects.
func (s *run) fenceOf(stream string) []string {
	return []string{fmt.Sprintf("$OMNIBUS.moved.%s.%s", s.ID, stream)}
}

// subjectsOf returns the subjects that a stream had before the fence.
func (s *run) subjectsOf(stream string) (subjects []string, fenced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	subjects, fenced = s.subjects[stream]
	return subjects, fenced
}

// storesItself reports whether the server may store messages of its own in a stream.
func storesItself(info *jetstream.StreamInfo) bool {
	return info.Config.AllowMsgSchedules || info.Config.SubjectDeleteMarkerTTL > 0
}

// isFenced returns an error unless the old servers have a stream as it was when it was copied.
func (s *run) isFenced(ctx context.Context, was *jetstream.StreamInfo) error {
	now, err := awaitStream(ctx, s.Source, was.Config.Name)
	switch {
	case err != nil:
		return fmt.Errorf("stream %s: %w", was.Config.Name, err)
	case now.Config.Metadata[wire.KeyMoved] != s.ID || !slices.Equal(now.Config.Subjects, s.fenceOf(was.Config.Name)),
		now.State.LastSeq != was.State.LastSeq && !storesItself(was):
		return fmt.Errorf("somebody has changed stream %s at the old servers since it was copied", was.Config.Name)
	}
	return nil
}

// giveBack ends the fence when the switch has failed. Publishers wait meanwhile: they would fail.
// fenced is a *switchover.FencedError, and gone says which streams somebody has deleted.
func (s *run) giveBack() (fenced, gone error) {
	if len(s.subjects) == 0 {
		return nil, nil
	}
	limit := max(updateLimit, s.MaxWait) // as long again as publishers have waited, at most
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for _, info := range s.fencing { // a change that may still come must not come last
		if s.doubtful[info.Config.Name] {
			_ = s.fenceOne(ctx, info.Config)
		}
	}
	left, deleted, err := GiveBack(ctx, s.sourceJS, s.ID, s.subjects)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %v", limit)
	}
	if len(left) > 0 {
		fenced = &switchover.FencedError{Target: s.Home.From, Streams: left, Err: err}
	}
	if len(deleted) > 0 {
		gone = fmt.Errorf("somebody has deleted the streams %v at the old servers meanwhile", deleted)
	}
	return fenced, gone
}

// AnyFenced reports whether a server has a stream that a switch has fenced.
func AnyFenced(ctx context.Context, js jetstream.JetStream, id string, subjects map[string][]string) bool {
	for name := range subjects {
		if info, err := look(ctx, js, name); err == nil && info.Config.Metadata[wire.KeyMoved] == id {
			return true
		}
	}
	return false
}

// GiveBack ends the fence of a switch: the streams get their subjects back. It may be called
// again. It returns the streams that do not have them yet, and those that somebody has deleted, both
// sorted. err is why one does not have them.
func GiveBack(ctx context.Context, js jetstream.JetStream, id string, subjects map[string][]string) (left, deleted []string, err error) {
	var mu sync.Mutex
	left, err = failing(slices.Collect(maps.Keys(subjects)), func(name string) error {
		found, err := updateMarked(ctx, js, name, wire.KeyMoved, id, func(c *jetstream.StreamConfig) {
			delete(c.Metadata, wire.KeyMoved)
			c.Subjects = subjects[name]
		})
		if err == nil && !found {
			mu.Lock()
			deleted = append(deleted, name)
			mu.Unlock()
		}
		return err
	})
	slices.Sort(deleted)
	return left, deleted, err
}

// MarkLeft has the old servers know that a switch home is committed: until then nobody may delete
// what it leaves there. It may be called again. It returns the streams that do not say so yet, sorted,
// and why one of them does not.
func MarkLeft(ctx context.Context, js jetstream.JetStream, id string, names []string) (left []string, err error) {
	return failing(names, func(name string) error {
		_, err := updateMarked(ctx, js, name, wire.KeyMoved, id, func(c *jetstream.StreamConfig) { c.Metadata[wire.KeyLeft] = id })
		return err
	})
}
