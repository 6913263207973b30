package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/storedir"
	engine "github.com/omnibus-go/bus/internal/switchover"
	"github.com/omnibus-go/bus/switchover"
)

// followMove reads whether the streams of the store directory were moved to another server.
// Then that is the server of the bus, unless WithURL names one.
func (c *config) followMove() {
	if c.server.storeDir == "" {
		return
	}
	move, moved := storedir.MovedTo(c.server.storeDir)
	if !moved {
		return
	}
	c.server.moved = &move
	if c.server.url == "" {
		c.server.url, c.server.followed = move.Target, true
	}
}

// connectMoved makes a bus on the server that has the streams of the store directory now.
// asked is the URL of WithURL, or empty. It never falls back to the old streams.
func connectMoved(c *config, asked string, home startHome) (*Bus, error) {
	m := c.server.moved
	failed := &switchover.MovedError{Dir: c.server.storeDir, Target: m.Target, URL: link.Redact(asked)}
	b, err := connect(context.Background(), c, home)
	if err != nil {
		failed.Err = err
		return nil, failed
	}
	switch missing := b.checkHasMoved(m); {
	case missing != nil && asked != "":
		failed.Missing, failed.Err = errors.Is(missing, errNoneThere), missing
		return nil, errors.Join(failed, b.Close())
	case errors.Is(missing, errNoneThere): // a program may have deleted them since
		c.logger.Warn("this server has none of the streams that were moved to it; if nobody has deleted them, it is another server than then, or has lost its data",
			"dir", c.server.storeDir, "target", m.Target, "streams", m.Streams)
	}
	c.logger.Info("the streams of the store directory were moved to this server", "dir", c.server.storeDir, "target", m.Target, "at", m.At)
	if err := b.undoHomeAtStart(); err != nil {
		failed.Err = err
		return nil, errors.Join(failed, b.Close())
	}
	b.answerForMoved(m)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if left, err := engine.RemoveMarks(ctx, b.core.JetStream, m.Streams, m.ID); err != nil {
		c.logger.Warn("the mark of the switch is still on streams; the next start removes it", "streams", left, "error", translate(err))
	}
	return b, nil
}

// undoHomeAtStart undoes a switch home that was interrupted when the last process ended. While
// another process has the store directory, that may go on with the switch; if it ends instead, this bus
// undoes it.
func (b *Bus) undoHomeAtStart() error {
	err := b.undoHome(context.Background())
	if store, ok := errors.AsType[*StoreError](err); ok && store.Problem == StoreLocked {
		hindered := fmt.Errorf("another process is bringing the streams of the store directory home, and until that has ended they may store nothing: %s", inner(err))
		b.cfg.logger.Warn(hindered.Error())
		b.undo.Start(engine.Undoing{Stopping: b.state.stopping, Try: b.tryUndoHome, Report: b.reportFenced, Hindered: hindered}, nil)
		return nil
	}
	return err
}

// undoHome undoes a switch home that has failed or was interrupted, if there is one: the streams get their subjects
// back, and what had come home is removed.
func (b *Bus) undoHome(ctx context.Context) error {
	m, unfinished := storedir.UnfinishedHome(b.cfg.server.storeDir)
	if !unfinished {
		return nil
	}
	dir, err := storedir.OpenHome(b.cfg.server.storeDir, m.ID)
	if err != nil {
		return storeError(b.cfg.server.storeDir, err)
	}
	if m, unfinished, err = dir.Begun(); err != nil {
		return errors.Join(storeError(dir.Path(), err), dir.Close())
	}
	if !unfinished || !m.Home { // another process has come first
		return dir.Close()
	}
	ctx, cancel := b.core.WithTimeout(ctx)
	defer cancel()
	if err = b.giveBack(ctx, b.core.Link.Conn(), m, b.core.Link.Target().URL); err == nil {
		err = dir.EndMove()
	}
	if err == nil {
		b.cfg.logger.Warn("a switch home had failed or was interrupted; the streams at the server count, and have their subjects back", "dir", b.cfg.server.storeDir)
	}
	return errors.Join(err, dir.Close())
}

// undoHomeLater undoes a switch home, which has failed with err while its servers were away, as
// soon as they answer.
func (b *Bus) undoHomeLater(err error) {
	fenced, _ := errors.AsType[*switchover.FencedError](err)
	b.undo.Start(engine.Undoing{Stopping: b.state.stopping, Try: b.tryUndoHome, Report: b.reportFenced}, fenced)
}

// tryUndoHome undoes a switch home that has failed, if the bus is connected and does not switch.
func (b *Bus) tryUndoHome(ctx context.Context) error {
	if !b.core.Connected() {
		return ErrDisconnected
	}
	unlock, err := b.switching.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return b.undoHome(ctx)
}

// reportFenced reports that a switch home has left streams without their subjects, or with nil that
// they have them back.
func (b *Bus) reportFenced(fenced *switchover.FencedError) {
	if fenced != nil {
		b.report(event.Event{Kind: event.ServerError, Err: fenced})
		return
	}
	b.cfg.logger.Info("the streams have the subjects back that a switch home had taken; stores go on at the server")
}

// giveBack gives streams the subjects back that a switch home has taken from them.
// leads is the URL of nc: a server that has none of the fenced streams and another URL is another one.
func (b *Bus) giveBack(ctx context.Context, nc *nats.Conn, m storedir.Move, leads string) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if withoutCredentials(leads) != m.Target && len(m.Subjects) > 0 && !engine.AnyFenced(ctx, js, m.ID, m.Subjects) {
		return fmt.Errorf("a switch home from %s was interrupted, and streams there may not have their subjects back; use that URL once", m.Target)
	}
	left, deleted, err := engine.GiveBack(ctx, js, m.ID, m.Subjects)
	if err != nil {
		return &switchover.FencedError{Target: m.Target, Streams: left, Err: translate(err)}
	}
	if len(deleted) > 0 {
		b.cfg.logger.Warn("a switch home had taken the subjects of streams, and cannot give them back: somebody has deleted the streams since", "target", m.Target, "streams", deleted)
	}
	return nil
}

// tellFormer has the servers from which streams came home know of the commit, if the process died
// before they did. It tries that once.
func (b *Bus) tellFormer() {
	dir := b.local.Load().dir
	if dir == nil {
		return
	}
	m, untold := dir.Untold()
	if !untold {
		return
	}
	nc, err := b.cfg.dial(m.Target, b.cfg.accessTo(m.Target))
	if err != nil {
		b.warnUntold(m, err)
		return
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), targetTimeout)
	defer cancel()
	b.tellCommitted(ctx, nc, dir)
}

// targetTimeout limits one connection attempt to another server than that of the bus, and a write to it.
const targetTimeout = 2 * time.Second

// dial connects to another server than that of the bus, with a connection for a switch.
func (c *config) dial(u string, access []nats.Option) (*nats.Conn, error) {
	opts := []nats.Option{nats.Name(c.name + " (switch)"), nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond), nats.IgnoreAuthErrorAbort(),
		nats.CustomInboxPrefix(cmp.Or(c.inbox, nats.InboxPrefix[:len(nats.InboxPrefix)-1])),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})} // else it would print
	return link.Connect(u, targetTimeout, append(opts, access...)...)
}

// tellCommitted has what a switch home to dir left at the servers of nc say that it is committed.
// Until then nobody can delete it.
func (b *Bus) tellCommitted(ctx context.Context, nc *nats.Conn, dir *storedir.Dir) {
	m, untold := dir.Untold()
	if !untold {
		return
	}
	js, err := jetstream.New(nc)
	if err == nil {
		_, err = engine.MarkLeft(ctx, js, m.ID, m.Streams)
	}
	if err == nil {
		err = dir.EndMove()
	}
	if err != nil {
		b.warnUntold(m, translate(err))
	}
}

// warnUntold says that what a switch home has left cannot be deleted yet.
func (b *Bus) warnUntold(m storedir.Move, err error) {
	b.cfg.logger.Warn("the servers from which streams came home do not know yet that this is committed, so Stream.Delete refuses what is left there; the next start tells them",
		"target", m.Target, "streams", m.Streams, "error", err)
}

// answerForMoved has the bus know the message IDs that the streams knew before they moved,
// while their windows last.
func (b *Bus) answerForMoved(m *storedir.Move) {
	data, err := storedir.KeptIDs(b.cfg.server.storeDir, dedup.MaxFile)
	if err != nil {
		b.cfg.logger.Warn("the message IDs of before the switch cannot be read: those that are published again are stored again", "error", err)
		return
	}
	if data == nil {
		return
	}
	ids, err := dedup.Decode(data, m.ID)
	switch {
	case errors.Is(err, dedup.ErrOtherMove): // of a switch that went back
	case err != nil:
		b.cfg.logger.Warn("the message IDs of before the switch cannot be read: those that are published again are stored again", "error", err)
	default:
		b.answerFor(ids)
	}
}

// answerFor has the bus answer for the message IDs of streams that moved. When the last window is
// over, it forgets them, and so does the store directory.
func (b *Bus) answerFor(ids *dedup.IDs) {
	if ids.Len() == 0 {
		return
	}
	b.core.Outlet.AnswerFor(ids)
	go func() { // ends then, or when the bus stops
		select {
		case <-time.After(time.Until(ids.Until())):
		case <-b.state.stopping:
			return
		}
		unlock, err := b.switching.Lock(context.Background()) // a switch may be about to write others
		if err != nil {
			return
		}
		defer unlock()
		if !b.core.Outlet.Forget(ids) || b.cfg.server.storeDir == "" {
			return
		}
		if err := storedir.RemoveIDs(b.cfg.server.storeDir); err != nil {
			b.cfg.logger.Warn("the message IDs of before the switch are not needed any more, and cannot be removed", "error", err)
		}
	}()
}

// errNoneThere is why a server is not the one that streams were moved to.
var errNoneThere = errors.New("it has none of them")

// checkHasMoved returns an error unless the server has one of the streams that were moved.
func (b *Bus) checkHasMoved(m *storedir.Move) error {
	ctx, cancel := b.core.WithTimeout(context.Background())
	defer cancel()
	for _, name := range m.Streams {
		_, err := b.core.JetStream.Stream(ctx, name)
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return translate(err)
		}
	}
	if len(m.Streams) == 0 {
		return nil
	}
	return errNoneThere
}

// logUnfinishedSwitch says that a switch was interrupted: the streams here count.
func logUnfinishedSwitch(c *config, dir *storedir.Dir) {
	if dir == nil {
		return
	}
	move, begun, err := dir.Begun()
	if err != nil {
		c.logger.Warn("the journal of a switch cannot be read; the streams in the store directory count", "dir", dir.Path(), "error", err)
	}
	if begun {
		c.logger.Warn("a switch to another server was interrupted; the streams in the store directory count, and the next SwitchTo to that target deletes the copies there",
			"dir", dir.Path(), "target", move.Target, "at", move.At, "id", move.ID, "streams", move.Streams)
	}
}

// withoutCredentials returns a list of URLs without user names and passwords.
func withoutCredentials(list string) string {
	var urls []string
	for u := range strings.SplitSeq(list, ",") {
		u = strings.TrimSpace(u)
		if !strings.Contains(u, "://") {
			u = "nats://" + u
		}
		if p, err := url.Parse(u); err == nil {
			p.User = nil
			u = p.String()
		}
		urls = append(urls, u)
	}
	return strings.Join(urls, ",")
}
