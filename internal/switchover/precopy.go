package switchover

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// planLive chooses the streams that are copied while publishers go on: the largest ones, if
// all together would have publishers wait for long.
func (s *run) planLive() {
	all := slices.SortedFunc(slices.Values(s.infos), func(a, b *jetstream.StreamInfo) int { return int(cost(a)*1e6) - int(cost(b)*1e6) })
	total := 0.0
	s.report.Live = nil
	for _, info := range all {
		if total += cost(info); total > 1 && s.canLive(info) {
			s.report.Live = append(s.report.Live, info.Config.Name)
		}
	}
	slices.Sort(s.report.Live)
	s.warnOfHold()
}

// costTime is how long publishers wait for a copy of cost 1: measured with 100,000 to 1,000,000 messages
// on two cores and a fast disk, so it is an estimate.
const costTime = 300 * time.Millisecond

// warnOfHold warns if what is copied while publishers wait probably takes longer than MaxWait.
func (s *run) warnOfHold() {
	var total float64
	var names []string
	for _, info := range s.infos {
		if name := info.Config.Name; !slices.Contains(s.report.Live, name) {
			total += cost(info)
			names = append(names, name)
		}
	}
	if takes := time.Duration(total * float64(costTime)); takes > s.MaxWait {
		slices.Sort(names)
		s.warn("publishers would wait for about %v while the streams %v are copied, and MaxWait is %v: give it more time with switchover.MaxWait, or make them smaller", takes.Round(100*time.Millisecond), names, s.MaxWait)
	}
}

// cost is the time that a snapshot takes; 1 is as long as publishers may wait.
func cost(info *jetstream.StreamInfo) float64 {
	return max(float64(info.State.Msgs)/snapshotMessages, float64(info.State.Bytes)/snapshotBytes)
}

// canLive reports whether a restore of the stream can stay open: the target must not store
// messages of its own meanwhile, such as those of schedules and delete markers. On the way home
// streams in memory come after a restart of the embedded server.
func (s *run) canLive(info *jetstream.StreamInfo) bool {
	c := &info.Config
	return (s.Home == nil || c.Storage == jetstream.FileStorage) && c.Mirror == nil && len(c.Sources) == 0 && !c.AllowMsgSchedules && c.SubjectDeleteMarkerTTL == 0 && !c.Sealed
}

// isLive reports whether a stream is copied while publishers go on.
func (s *run) isLive(info *jetstream.StreamInfo) bool {
	return slices.Contains(s.report.Live, info.Config.Name)
}

// precopy copies the large streams while publishers go on, until little is left of each.
// Then the copies follow their streams, until the copy phase ends them.
func (s *run) precopy(ctx context.Context) error {
	if len(s.report.Live) > 0 {
		if err := s.copyLive(ctx); err != nil {
			return err
		}
	}
	return s.openAll(ctx) // last: meanwhile whoever lists the streams of the target waits
}

// copyLive copies the large streams.
func (s *run) copyLive(ctx context.Context) error {
	if err := s.Bus.HoldConsumers(ctx, s.report.Live); err != nil {
		return err
	}
	infos := slices.DeleteFunc(slices.Clone(s.infos), func(i *jetstream.StreamInfo) bool { return !s.isLive(i) })
	if err := s.barrier(ctx, infos); err != nil {
		return err
	}
	ctx, s.cancelLive = context.WithCancel(ctx)
	turns := make(chan struct{}, maxLive)
	for _, info := range infos {
		l := &live{info: info, stop: make(chan struct{}), done: make(chan struct{})}
		s.lives[info.Config.Name] = l
		s.begun(info.Config.Name)
		go l.run(ctx, s, turns) // ends with stop or ctx; finish and abandonLive wait for it
	}
	err := s.awaitLive(ctx)
	if err == nil && s.Home != nil {
		s.Home.SyncAhead(ctx)
		err = context.Cause(ctx)
	}
	return err
}

// awaitLive waits until little is left of each stream.
func (s *run) awaitLive(ctx context.Context) error {
	for {
		behind := false
		for _, l := range s.lives {
			select {
			case <-l.done:
				if l.err != nil {
					return l.err
				}
			default:
				behind = behind || !l.caughtUp.Load()
			}
		}
		if !behind {
			return nil
		}
		if err := sleep(ctx, pollPause); err != nil {
			return err
		}
	}
}

// abandonLive ends the copies that follow their streams. The target has them, incomplete.
func (s *run) abandonLive() {
	if s.cancelLive == nil {
		return
	}
	s.cancelLive()
	var ended sync.WaitGroup
	for _, l := range s.lives {
		ended.Go(func() { // ends with abort, which is bounded
			<-l.done
			l.abort()
		})
	}
	ended.Wait()
}

// dropGone ends the copies of streams that were deleted since they began, and deletes what the
// target has of them.
func (s *run) dropGone(ctx context.Context) error {
	if err := s.dropOpened(ctx); err != nil {
		return err
	}
	for name, l := range s.lives {
		if slices.Contains(s.report.Streams, name) {
			continue
		}
		close(l.stop)
		select {
		case <-l.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		l.abort()
		delete(s.lives, name)
		s.notLive(name)
		if err := s.removeOne(ctx, name); err != nil {
			return fmt.Errorf("the copy of stream %s, which was deleted: %w", name, err)
		}
		s.forget(name)
	}
	return nil
}
