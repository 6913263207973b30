package bus

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

	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/storedir"
	engine "github.com/omnibus-go/bus/internal/switchover"
	"github.com/omnibus-go/bus/switchover"
)

// canGoHome returns an error unless the bus is at another server and can start an embedded one.
func (b *Bus) canGoHome() error {
	err := &UnsupportedError{Call: "SwitchTo", Server: b.core.Link.Server().Text}
	switch {
	case b.local.Load() != nil:
		err.instead = "the bus is at its embedded server already"
	case b.startHome == nil:
		err.instead = "this bus has no place for streams; only a bus of New with WithStoreDir can bring them home"
	default:
		return nil
	}
	return err
}

// homeSwitch is a switch home, to the embedded server: what differs from another one. local is
// the server that it starts.
type homeSwitch struct {
	*busSwitch
	freezing   lifecycle.Mutex   // a consumer is frozen once at a time
	held       sync.Map          // the []intake.Holding since the last freeze, by the API subject that returns the state of a consumer
	via        *nats.Conn        // to the server at which the bus is
	home       *nats.Conn        // to the embedded server
	restarting chan *localServer // gets the embedded server that is being started again, or nil; nil itself if none is
}

// runHome starts the embedded server, connects to both sides and switches.
func (s *busSwitch) runHome(ctx context.Context) (report switchover.Report, err error) {
	b := s.b
	report.DryRun, report.Target = s.settings.DryRun, "the embedded server"
	if b.cfg.server.listen.addr != "" { // others must not see the streams before they count
		return report, &switchover.ObstacleError{Target: report.Target, Obstacles: []switchover.Obstacle{portObstacle}}
	}
	s.former = b.core.Link.Target()
	if s.local, err = b.startHome(s.move.ID); err != nil {
		return report, err
	}
	h := &homeSwitch{busSwitch: s}
	if !s.settings.DryRun {
		b.undo.Stop() // this switch does it, or begins it again
	}
	defer func() {
		if b.local.Load() == nil || !b.core.Link.Open() { // nothing came home, or Shutdown has not seen the server
			b.local.Store(nil)
			err = errors.Join(err, h.stopHome())
			if _, unfinished := storedir.UnfinishedHome(b.cfg.server.storeDir); unfinished && !s.settings.DryRun {
				b.undoHomeLater(err)
			}
		}
	}()
	if h.via, err = s.dialFormer(); err != nil {
		return report, &ConnectError{URL: link.Redact(s.former.URL), Err: connectionError(err, "")}
	}
	defer h.via.Close()
	if h.home, err = s.dialLocal(); err != nil {
		return report, &ConnectError{URL: report.Target, Err: err}
	}
	defer func() { h.home.Close() }()
	if err := h.endEarlier(ctx); err != nil {
		return report, err
	}
	s.move.Target, s.move.Home = withoutCredentials(s.former.URL), true
	report, err = engine.Run(ctx, engine.Config{
		Bus: h, Source: h.via, Target: h.home, Redact: link.Redact, Report: report, ID: s.move.ID,
		Home: &engine.Home{From: s.move.Target, Streams: h.streams, Obstacles: h.obstacles(ctx), Journal: h.journalSubjects, Freeze: h.freezeStream, Held: h.holds,
			SyncAhead: h.syncAhead, Restart: h.restart},
		DryRun: s.settings.DryRun, MaxWait: s.settings.MaxWait, CopyRate: s.settings.CopyRate, Progress: s.progress,
	})
	s.log(report, err)
	return report, s.publicError(err)
}

// portObstacle is in the way of a switch home.
var portObstacle = switchover.Obstacle{Reason: "the embedded server would have a port, at which others could store messages before the streams there count",
	Remedy: "start the program without WithListen and without other ports, switch, and start it with them again"}

// dialFormer connects to the server at which the bus is: that has passed on what the bus has
// sent before what this connection asks.
func (s *busSwitch) dialFormer() (*nats.Conn, error) {
	s.target = s.former
	return s.dial(cmp.Or(s.b.core.Link.Conn().ConnectedUrl(), s.former.URL))
}

// endEarlier gives streams their subjects back that an earlier switch home has fenced.
func (h *homeSwitch) endEarlier(ctx context.Context) error {
	earlier, begun, err := h.local.dir.Begun()
	if err != nil || h.settings.DryRun { // a dry run names the fence as an obstacle
		return err
	}
	if begun && earlier.Home {
		ctx, cancel := h.b.core.WithTimeout(ctx)
		defer cancel()
		if err = h.b.giveBack(ctx, h.via, earlier, h.former.URL); err == nil {
			err = h.local.dir.EndMove()
		}
		if err != nil {
			return h.b.opError("SwitchTo", "", err)
		}
	}
	if h.b.undo.Done() {
		h.b.reportFenced(nil)
	}
	return nil
}

// streams returns the streams that come home: those that were moved from here, and those that
// the bus has declared or looked up, with their side streams.
func (h *homeSwitch) streams() (names []string) {
	if m := h.local.dir.Identity().Moved; m != nil {
		names = append(names, m.Streams...)
	}
	h.b.known.Range(func(name, _ any) bool {
		n := name.(string)
		names = append(names, n, sidestream.DeadStream(n), sidestream.RetryStream(n), sidestream.KeysStream(n))
		return true
	})
	return names
}

// aloneWithin is how long a switch home waits for this process to have the keys of its
// consumers: it may have just begun.
const aloneWithin = 3 * time.Second

// obstacles names the durables that other processes take part in.
func (h *homeSwitch) obstacles(ctx context.Context) (all []switchover.Obstacle) {
	if !h.local.alone {
		all = append(all, portObstacle)
	}
	ctx, cancel := context.WithTimeout(ctx, aloneWithin)
	defer cancel()
	for _, c := range h.consumers() {
		for !c.engine.Alone() && ctx.Err() == nil {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		if !c.engine.Alone() {
			all = append(all, switchover.Obstacle{Stream: c.stream,
				Reason: fmt.Sprintf("another process takes part in consumer %q, or this one does not know yet that none does", c.durable),
				Remedy: "stop the others, and wait until this process has all keys, which takes up to a third of AckWait"})
		}
	}
	return all
}

// holds implements engine.Home.Held.
func (h *homeSwitch) holds(stream, durable string) (held []intake.Holding, known bool) {
	for _, c := range h.consumers() {
		if c.durable == durable && takesFrom(c, stream) {
			all, _ := h.held.Load("$JS.API.CONSUMER.INFO." + stream + "." + durable)
			held, _ = all.([]intake.Holding)
			return held, true
		}
	}
	return nil, false
}

// takesFrom reports whether a consumer takes messages from a stream, which may be one beside its own.
func takesFrom(c *Consumer, stream string) bool {
	return c.stream == stream || sidestream.RetryStream(c.stream) == stream
}

// freezeStream implements engine.Home.Freeze.
func (h *homeSwitch) freezeStream(ctx context.Context, stream string) (thaw func(), err error) {
	thaw, err = h.freeze(ctx, func(c *Consumer) bool { return takesFrom(c, stream) })
	if err == nil {
		err = h.b.core.Link.Flush(ctx, h.b.core.Timeout)
	}
	if err != nil {
		thaw()
		return nil, err
	}
	return thaw, nil
}

// freeze has settlements of some consumers wait until thaw, and lists what they hold by then. thaw
// must be called, also after an error.
func (h *homeSwitch) freeze(ctx context.Context, wanted func(*Consumer) bool) (thaw func(), err error) {
	unlock, err := h.freezing.Lock(ctx)
	if err != nil {
		return func() {}, err
	}
	if h.cut { // what the cut has listed counts
		unlock()
		return func() {}, errAfterCut
	}
	ends := []func(){unlock}
	thaw = func() {
		for _, end := range slices.Backward(ends) {
			end()
		}
	}
	lists := make(map[string][]intake.Holding)
	for _, c := range h.consumers() {
		if !wanted(c) {
			continue
		}
		held, end, err := c.engine.Freeze(ctx)
		ends = append(ends, end)
		if err != nil {
			return thaw, fmt.Errorf("consumer %s: %w", c.durable, err)
		}
		for info, all := range held {
			lists[info] = append(lists[info], all...)
		}
	}
	for info, all := range lists {
		h.held.Store(info, all)
	}
	return thaw, nil
}

// errAfterCut is why nothing is listed again.
var errAfterCut = errors.New("the bus is cut off from the old servers")

// syncAhead implements engine.Home.SyncAhead. What it cannot sync the restart does.
func (h *homeSwitch) syncAhead(ctx context.Context) {
	if err := h.local.dir.Sync(ctx); err != nil {
		h.b.cfg.logger.Debug("what has come home so far is not synced yet", "error", err)
	}
}

// errRestart is why the switch does not wait for the embedded server any more.
var errRestart = errors.New("the embedded server, which has got the streams, was still being started again")

// restart implements engine.Home.Restart.
func (h *homeSwitch) restart(ctx context.Context) (*nats.Conn, error) {
	h.home.Close()
	h.restarting = make(chan *localServer, 1)
	var failed error
	go func() { // ends with the restart, which ctx ends only before the new server starts; stopHome waits for it
		var fresh *localServer
		fresh, failed = h.local.restart(ctx)
		h.restarting <- fresh
	}()
	select {
	case fresh := <-h.restarting:
		h.restarting = nil
		if failed != nil {
			return nil, failed
		}
		h.local = fresh
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errRestart, context.Cause(ctx))
	}
	home, err := h.dialLocal()
	if err == nil {
		h.home = home
	}
	return home, err
}

// stopHome stops the embedded server.
func (h *homeSwitch) stopHome() error {
	if h.restarting != nil {
		if fresh := <-h.restarting; fresh != nil {
			h.local = fresh
		}
	}
	return h.local.stop()
}

// OtherClients implements engine.Bus. Nobody minds those of a cluster.
func (h *homeSwitch) OtherClients() (now int, ever uint64) { return 0, 0 }

// journalSubjects implements engine.Home.Journal.
func (h *homeSwitch) journalSubjects(subjects map[string][]string) error {
	h.move.Streams, h.move.Subjects = slices.Sorted(maps.Keys(subjects)), subjects
	return h.local.dir.BeginMove(h.move)
}

// Cut implements engine.Bus. What handlers settle from now on waits, and counts at home.
func (h *homeSwitch) Cut(ctx context.Context) error {
	thaw, err := h.freeze(ctx, func(*Consumer) bool { return true })
	defer thaw()
	if err != nil {
		return err
	}
	at := h.b.core.Link.Conn().ConnectedServerId()
	h.cut = true
	if err := h.b.core.Link.Cut(ctx); err != nil {
		h.cut = false
		return err
	}
	if h.via.ConnectedServerId() != at {
		return errors.New("the connection of the bus was lost, and came back at another server of the cluster; try again")
	}
	return nil
}

// Commit implements engine.Bus.
func (h *homeSwitch) Commit(ids *dedup.IDs) error {
	h.ids = ids
	err := h.local.dir.CommitHome(h.move)
	if errors.Is(err, storedir.ErrUndecided) {
		h.b.loseStore(err)
	}
	return err
}

// Connect implements engine.Bus.
func (h *homeSwitch) Connect(ctx context.Context) error {
	h.b.local.Store(h.local)
	watched := h.local.attach(h.b)
	return errors.Join(watched, h.b.core.Link.Lead(ctx, link.Target{URL: link.EmbeddedURL, InProcess: h.local.dial, Access: h.local.access}))
}

// Settle implements engine.Bus. Consumers with keys go on to share their durables, until the next start.
func (h *homeSwitch) Settle(ctx context.Context) {
	h.b.tellCommitted(ctx, h.via, h.local.dir)
	if err := h.local.dir.RemoveOld(); err != nil {
		h.b.cfg.logger.Warn("streams that are old since the switch home are still in the store directory; the next start removes them", "error", err)
	}
}
