package switchover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/switchover"
)

// run is one switch. The fields below mu are shared with the goroutines that copy.
type run struct {
	Config
	sourceJS, targetJS jetstream.JetStream

	began     time.Time               // when Run was called
	held      time.Time               // when publishers began to wait
	unpaced   chan struct{}           // closed then: copies need not keep to a rate any more
	verified  time.Time               // when the copies were complete
	infos     []*jetstream.StreamInfo // of the old server
	obstacles []switchover.Obstacle
	tooOld    bool     // the target, which may not answer all questions
	stale     []string // copies of an earlier switch
	left      []string // what a switch home has left
	probes    []string // of earlier switches
	ids       *dedup.Collector
	refuse    atomic.Pointer[context.CancelCauseFunc] // ends the question of now
	refused   atomic.Pointer[link.RefusedError]       // the latest permission that is missing at the target

	mu       sync.Mutex
	report   switchover.Report
	progress switchover.Progress
	rate     rate
	told     time.Time // when bytes were last reported
	made     []string  // streams whose copy has begun
	own      []string  // those whose restore the target has not refused
	paced    time.Time // when the next bytes may be copied before the hold

	subjects    map[string][]string                  // on the way home: of streams that may be fenced
	fencing     []*jetstream.StreamInfo              // those streams as they were
	doubtful    map[string]bool                      // those whose change had no answer
	positionsOf map[string]map[string]*consumerState // then where consumers are, by stream and name; nil if not known
	copiedAt    map[string][]*jetstream.ConsumerInfo // and what the old servers said of them, by stream

	comparing  *group             // of consumers of copies that are complete
	making     chan struct{}      // full while a stream is made or deleted, see turn
	lives      map[string]*live   // copies that follow their streams
	opened     map[string]*opened // restores that have got nothing yet
	cancelLive context.CancelFunc
}

// Run switches. It returns what it did, also with an error. Errors are a
// *switchover.ObstacleError, a *switchover.Error, and before anything was done others.
func Run(ctx context.Context, c Config) (switchover.Report, error) {
	s := &run{Config: c, report: c.Report, began: time.Now(), ids: dedup.NewCollector(dedup.Max), unpaced: make(chan struct{}), lives: make(map[string]*live), opened: make(map[string]*opened), comparing: newGroup(), making: make(chan struct{}, 1)}
	s.report.DryRun = c.DryRun
	c.Target.SetErrorHandler(s.onRefusal)
	if c.Home != nil {
		c.Source.SetErrorHandler(s.onRefusal)
	}
	var err error
	if s.sourceJS, err = jetstream.New(c.Source); err != nil {
		return s.report, err
	}
	if s.targetJS, err = jetstream.New(c.Target); err != nil {
		return s.report, err
	}
	if err := s.phase(switchover.Preflight, func() error { return s.preflight(ctx) }); err != nil || c.DryRun {
		return s.report, err
	}
	if err := s.Bus.Journal(s.report.Streams); err != nil {
		return s.report, s.failed(switchover.Preflight, err)
	}
	phase, err := s.move(ctx)
	if err != nil {
		err = s.goBack(phase, err)
		return s.report, err
	}
	err = s.finish(ctx)
	return s.report, err
}

// errMaxWait is why a switch was given up.
var errMaxWait = errors.New("publishers had waited for as long as MaxWait allows; give it more time with switchover.MaxWait, or make the streams smaller")

// move does everything from Hold to Commit. It returns the phase that failed.
func (s *run) move(ctx context.Context) (failed switchover.Phase, err error) {
	if len(s.report.Live) > 0 || s.opensEarly() && len(s.infos) > 0 {
		if err := s.phase(switchover.Precopy, func() error { return s.precopy(ctx) }); err != nil {
			return switchover.Precopy, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.MaxWait, errMaxWait)
	defer cancel()
	s.held = time.Now()
	close(s.unpaced)
	for _, p := range s.steps() {
		if err := s.phase(p.name, func() error { return p.do(ctx) }); err != nil {
			if cause := ended(ctx); cause != nil && !errors.Is(err, cause) {
				err = fmt.Errorf("%w (%w)", cause, err)
			}
			return p.name, err
		}
	}
	return "", nil
}

// step is a phase, and what is done in it.
type step struct {
	name switchover.Phase
	do   func(context.Context) error
}

// steps returns the phases in which publishers wait, until the commit.
func (s *run) steps() []step {
	if s.Home != nil {
		return []step{{switchover.Hold, s.Bus.Hold}, {switchover.Fence, s.fence}, {switchover.Cut, s.cutHome},
			{switchover.Copy, s.copyAllHome}, {switchover.Verify, s.verifyAll}, {switchover.Commit, s.commit}}
	}
	return []step{{switchover.Hold, s.Bus.Hold}, {switchover.Cut, s.cutOff},
		{switchover.Copy, s.copyAll}, {switchover.Verify, s.verifyAll}, {switchover.Commit, s.commit}}
}

// ended returns why ctx has ended, nil if it has not. A call with a timer of its own for the
// deadline of ctx may fail just before ctx ends.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done()
	}
	return context.Cause(ctx)
}

// cutOff cuts the bus off and waits until the old server has processed everything. Then it
// looks at the streams again: nothing changes them any more.
func (s *run) cutOff(ctx context.Context) (err error) {
	if err := s.Bus.Cut(ctx); err != nil {
		return err
	}
	if s.infos, err = streams(ctx, s.Source); err != nil {
		return err
	}
	if err := s.barrier(ctx, s.infos); err != nil {
		return err
	}
	if s.infos, err = streams(ctx, s.Source); err != nil { // settlements remove messages of some streams
		return err
	}
	return s.describeAgain(ctx)
}

// describeAgain enters the streams into the report, and into the journal if some have come or
// gone since the preflight. The target gets rid of those that have gone.
func (s *run) describeAgain(ctx context.Context) error {
	before := s.report.Streams
	s.describe()
	if slices.Equal(before, s.report.Streams) {
		return nil
	}
	if err := s.dropGone(ctx); err != nil {
		return err
	}
	return s.Bus.Journal(s.report.Streams)
}

// copyAll copies all streams, to a cluster the large ones at last. When the copy of a stream is
// complete, its servers send it to each other. Elections would wait for that.
func (s *run) copyAll(ctx context.Context) error {
	if s.report.Replicas == 1 {
		return s.copyEach(ctx, s.infos)
	}
	var small, large []*jetstream.StreamInfo
	for _, info := range s.infos {
		if s.isLive(info) {
			large = append(large, info)
		} else {
			small = append(small, info)
		}
	}
	if err := s.copyEach(ctx, small); err != nil {
		return err
	}
	if err := s.comparing.Wait(); err != nil {
		return err
	}
	return s.copyEach(ctx, large)
}

// copyEach copies some streams, and begins to compare their consumers.
func (s *run) copyEach(ctx context.Context, streams []*jetstream.StreamInfo) error {
	return each(streams, func(info *jetstream.StreamInfo) error {
		err := s.copyOne(ctx, info)
		if err == nil {
			s.copied(info)
			s.comparing.Go(func() error { return s.awaitMajority(ctx, info) }) // meanwhile others are copied
			s.comparing.Go(func() error { return s.verifyConsumers(ctx, info) })
		}
		return err
	})
}

// copyOne copies a stream, or ends what has begun before the hold. If that cannot be ended it
// begins anew, while publishers wait.
func (s *run) copyOne(ctx context.Context, info *jetstream.StreamInfo) error {
	l, o := s.lives[info.Config.Name], s.openedOf(info.Config.Name)
	var err error
	switch {
	case l != nil:
		err = l.finish(ctx, info)
	case o != nil:
		err = o.fill(ctx, info)
	default:
		return s.copyHeld(ctx, info)
	}
	if err == nil {
		return nil
	}
	if _, changed := errors.AsType[*errChanged](err); ctx.Err() != nil || l == nil && !changed {
		return fmt.Errorf("copy of stream %s: %w", info.Config.Name, err)
	}
	s.notLive(info.Config.Name)
	s.warn("stream %s was copied again while publishers waited: %v", info.Config.Name, err)
	if err := s.removeOne(ctx, info.Config.Name); err != nil {
		return err
	}
	return s.copyHeld(ctx, info)
}

// copyHeld copies a stream while publishers wait.
func (s *run) copyHeld(ctx context.Context, info *jetstream.StreamInfo) error {
	if s.Home != nil {
		return s.copyHome(ctx, info)
	}
	s.begun(info.Config.Name)
	return s.copy(ctx, info)
}

// begun records that the target may have a copy of a stream from now on. The embedded server is
// thrown away with all copies.
func (s *run) begun(name string) {
	if s.Home != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.made, name) {
		s.made = append(s.made, name)
	}
}

// forget undoes begun.
func (s *run) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made = slices.DeleteFunc(s.made, func(m string) bool { return m == name })
}

func (s *run) verifyAll(ctx context.Context) error {
	s.verified = time.Now()
	if s.Home != nil {
		return each(s.infos, func(info *jetstream.StreamInfo) error { return s.verifyHome(ctx, info) })
	}
	if err := each(s.infos, func(info *jetstream.StreamInfo) error { return s.verify(ctx, info) }); err != nil {
		return err
	}
	return s.comparing.Wait()
}

// commit commits, if nobody else has been at the old server since the cut.
func (s *run) commit(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.Home != nil { // once more: somebody may have ended the fence since the streams were compared
		if err := each(s.infos, func(info *jetstream.StreamInfo) error {
			return errors.Join(s.isFenced(ctx, info), s.isLeftAlone(ctx, info.Config.Name))
		}); err != nil {
			return err
		}
	}
	ids, dropped := s.ids.Finish()
	if !dropped.IsZero() {
		s.warn("there are more message IDs than the %d that are kept: one that was stored before %v is stored again if it is published again", dedup.Max, dropped.UTC())
	}
	return s.Bus.Commit(ids)
}

// goBack leads the bus back to the old server and deletes the copies.
func (s *run) goBack(phase switchover.Phase, why error) error {
	fenced, gone := s.giveBack()
	ctx, cancel := context.WithTimeout(context.Background(), returnLimit)
	err := errors.Join(fenced, gone, s.Bus.Return(ctx))
	cancel()
	if !s.held.IsZero() {
		s.report.Waited = time.Since(s.held)
	}
	_ = s.comparing.Wait() // ctx of the phases has ended
	s.abandonLive()
	s.abandonOpened()
	ctx, cancel = context.WithTimeout(context.Background(), removeLimit+time.Duration(len(s.made))*removeMore)
	defer cancel()
	left, notRemoved := failing(s.made, func(name string) error { return s.removeOwn(ctx, name) })
	if notRemoved == nil && fenced == nil {
		err = errors.Join(err, s.Bus.Abort())
	}
	failed := s.failed(phase, errors.Join(why, err))
	failed.LeftBehind = left
	return failed
}

func (s *run) failed(phase switchover.Phase, err error) *switchover.Error {
	return &switchover.Error{Target: s.report.Target, Phase: phase, Err: s.withRefusal(err)}
}

// finish does everything after the commit. Nothing leads back any more, so it goes on also
// when ctx has ended, and each step has its own limit.
func (s *run) finish(ctx context.Context) error {
	var failed *switchover.Error
	err := s.phase(switchover.Connect, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), connectLimit)
		defer cancel()
		return s.Bus.Connect(ctx)
	})
	if err != nil {
		failed = s.failed(switchover.Connect, err)
		failed.Committed = true
	}
	_ = s.phase(switchover.Release, func() error {
		s.Bus.Release(context.WithoutCancel(ctx))
		return nil
	})
	s.report.Waited = time.Since(s.held)
	_ = s.phase(switchover.Settle, func() error {
		_ = s.unmark() // it changes streams, as some calls do; settle tries again
		s.Bus.ReleaseCalls()
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectLimit)
		defer cancel()
		s.Bus.Settle(limited)
		s.settle(ctx)
		return nil
	})
	if failed != nil {
		return failed
	}
	return nil
}

// unmark removes the mark from the copies, which count now.
func (s *run) unmark() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), unmarkLimit)
	defer cancel()
	s.made, err = RemoveMarks(ctx, s.targetJS, s.made, s.ID)
	return err
}

// unmarkRest is unmark, as long as that has an effect. Nobody waits for marks: the next start
// removes them, too.
func (s *run) unmarkRest() error {
	for {
		before := len(s.made)
		if err := s.unmark(); err == nil || len(s.made) == before {
			return err
		}
	}
}

// settle waits until the replicas of the target have the data, and removes the marks that are left.
func (s *run) settle(ctx context.Context) {
	if s.report.Replicas > 1 {
		s.settleReplicas(ctx)
	}
	if err := s.unmarkRest(); err != nil {
		s.warn("the mark of the switch is still on the streams %v: %v; the next start removes it", s.made, s.withRefusal(err))
	}
}

// settleReplicas waits until the replicas of the target have the data. Until then there is one copy,
// whatever the server says of its replicas at first.
func (s *run) settleReplicas(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	err := each(s.infos, func(info *jetstream.StreamInfo) error { return s.replicated(ctx, info.Config.Name) })
	if err != nil {
		s.warn("not all replicas have the data yet: %v", s.withRefusal(err))
	}
	s.wakeConsumers()
}

// wakeConsumers has the target look for messages that it can send. Otherwise a server that got
// them after the consumer had asked for them looks when something else happens, such as the
// next request. What is asked for here ends at once, and nobody hears the answer.
func (s *run) wakeConsumers() {
	ctx, cancel := context.WithTimeout(context.Background(), returnLimit)
	defer cancel()
	err := each(s.infos, func(info *jetstream.StreamInfo) error {
		all, err := consumers(ctx, s.targetJS, info.Config.Name)
		for _, c := range all {
			subject := "$JS.API.CONSUMER.MSG.NEXT." + c.Stream + "." + c.Name // one that gets messages pushed ignores it
			err = errors.Join(err, s.Target.PublishRequest(subject, s.Target.NewInbox(), []byte(`{"batch":1,"expires":1}`)))
		}
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil // it was deleted since
		}
		return err
	})
	if err = errors.Join(err, s.Target.FlushWithContext(ctx)); err != nil {
		s.warn("consumers may get messages of before the switch up to half a minute late: %v", err)
	}
}

// trustAfter is how long after a restore what the server says of replicas can be trusted: for
// up to 120 ms they are called current without having anything.
const trustAfter = 500 * time.Millisecond

// replicated waits until each replica of a stream was current once. While messages come, they
// are seldom all current at the same moment. It does not wait for a target that does not answer.
func (s *run) replicated(ctx context.Context, name string) error {
	if err := sleep(ctx, trustAfter-time.Since(s.verified)); err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	current := make(map[string]bool)
	for answered := time.Now(); time.Since(answered) < openLimit; {
		limited, cancel := context.WithTimeoutCause(ctx, openLimit, errNoLeader)
		info, err := awaitStream(limited, s.Target, name)
		cancel()
		if err == nil && info.Cluster != nil && info.Cluster.Leader != "" {
			answered = time.Now()
			for _, p := range info.Cluster.Replicas {
				current[p.Name] = current[p.Name] || p.Current
			}
			if len(current) >= s.report.Replicas-1 && !slices.Contains(slices.Collect(maps.Values(current)), false) {
				return nil
			}
		}
		if err := sleep(ctx, 10*pollPause); err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
	}
	return fmt.Errorf("stream %s: %w", name, errNoLeader)
}
