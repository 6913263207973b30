package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/storedir"
	engine "github.com/omnibus-go/bus/internal/switchover"
	"github.com/omnibus-go/bus/switchover"
)

// SwitchTo moves a running bus with all its streams from its embedded server to the server or
// cluster at url: "nats://host:4222", or several URLs of one cluster separated by commas.
// Handlers, subscriptions and consumers go on without a restart. The bus works on the new
// server when SwitchTo returns nil, and the embedded server has stopped. In a cluster each
// stream gets three replicas.
//
// First SwitchTo looks for everything that is in the way, and returns it all at once in a
// *switchover.ObstacleError. Nothing has changed then. switchover.DryRun does only that.
// Otherwise publishers, new requests and calls that ask the server wait, and do not fail. All
// streams and consumers are copied with their sequences and compared. Then the move is
// committed, and everything goes on at the new server. Handlers that run meanwhile are not
// waited for; what they settle counts on the new server. Large streams are copied before that,
// while publishers go on; meanwhile no handler of them begins. So publishers wait for as
// long as the rest takes, at most for switchover.MaxWait. Unless that is given, it is 5 s or four
// fifths of WithTimeout, whichever is less, so that a call without a deadline does not fail.
//
// If something fails before the commit, or ctx ends, the bus goes on where it was, and the
// error is a *switchover.Error. After the commit nothing leads back: the store directory says
// so, and New with that directory connects to the new server.
//
// With switchover.Embedded as the url the streams come home: to the embedded server of a bus of
// New with WithStoreDir that is connected to another server, also after an earlier SwitchTo.
// Those come home that were moved from the store directory, and those that this bus has
// declared or looked up, with their side streams. Other programs can store nothing in them at
// the old server from then on; what is left there has no subjects of theirs. Streams in memory
// are copied while publishers wait. docs/modes.md says what else is different.
//
// The options that identify the bus (WithUser, WithTLS …) are those of New, unless others are given
// here or the url has a user. The next start has only those of New: the report has a warning if
// they lack something.
//
// The target is nats-server 2.15 or newer with JetStream. docs/modes.md says what cannot be
// moved, and what may be different afterwards. A second call waits for the first one. Calls
// from handlers are allowed. Safe for concurrent use.
//
// Other errors: *OptionError (all of them, joined); *ConnectError if the target cannot be
// reached; *UnsupportedError if the bus has no embedded server, or is to come home and is there
// already or has no store directory; *StoreError and *StartError if the embedded server does
// not start, or the store directory cannot be read; *switchover.FencedError if an earlier way home has
// left streams that cannot have their subjects back yet; ErrTimeout or context.Canceled if ctx ends before
// anything has begun, also while the call waits for another one; ErrClosed.
func (b *Bus) SwitchTo(ctx context.Context, url string, opts ...switchover.Option) (switchover.Report, error) {
	report, err := b.switchTo(ctx, url, opts)
	report.Failed = err != nil
	return report, err
}

func (b *Bus) switchTo(ctx context.Context, url string, opts []switchover.Option) (switchover.Report, error) {
	if err := b.callable(ctx, "SwitchTo"); err != nil {
		return switchover.Report{}, err
	}
	s, err := newBusSwitch(b, url, opts)
	if err != nil {
		return switchover.Report{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with the call
		select {
		case <-b.state.stopping:
			cancel(ErrClosed)
		case <-ctx.Done():
		}
	}()
	unlock, err := b.switching.Lock(ctx)
	if err != nil {
		return switchover.Report{}, b.opError("SwitchTo", "", context.Cause(ctx))
	}
	defer unlock()
	if url == switchover.Embedded {
		if err := b.canGoHome(); err != nil {
			return switchover.Report{}, err
		}
		return s.runHome(ctx)
	}
	if s.local = b.local.Load(); s.local == nil {
		return switchover.Report{}, b.cannotLeave(url)
	}
	return s.run(ctx)
}

// cannotLeave returns why a bus without an embedded server cannot switch to url.
func (b *Bus) cannotLeave(url string) error {
	err := &UnsupportedError{Call: "SwitchTo", Server: b.core.Link.Server().Text}
	at := link.Redact(b.core.Link.Target().URL)
	switch {
	case url+":" == switchover.Embedded:
		err.instead = fmt.Sprintf("%q would be the name of a host; switchover.Embedded (%q) leads home", url, switchover.Embedded)
	case b.startHome != nil:
		err.instead = "this bus is at " + at + " and not at its embedded server; bring it home first, with switchover.Embedded"
	case b.cfg.server.url == "":
		err.instead = "SwitchTo has moved this bus to " + at + "; without WithStoreDir nothing leads from there"
	default:
		err.instead = "this bus has no embedded server; only a bus of New without WithURL can switch"
	}
	return err
}

// busSwitch is one switch, as the bus sees it. It implements engine.Bus.
type busSwitch struct {
	b        *Bus
	settings switchover.Settings
	target   link.Target
	identity string // as whom the bus connects to the target
	local    *localServer
	move     storedir.Move

	conns   int         // of this switch to the old server
	own     []uint64    // IDs of the clients of this bus there
	former  link.Target // where the connection led before
	cut     bool
	early   []*Consumer // held before the others
	ever    uint64      // clients of the old server until the cut
	joining []*Consumer // share their durables after the switch
	strange []string    // what the next start lacks, see inheritAccess
	ids     *dedup.IDs  // that the streams knew
}

// newBusSwitch reads the options of a switch.
func newBusSwitch(b *Bus, target string, opts []switchover.Option) (*busSwitch, error) {
	s := &busSwitch{b: b, settings: switchover.Settings{MaxWait: min(switchover.DefaultMaxWait, b.core.Timeout*4/5)}}
	c := &config{}
	for i, o := range opts {
		if o == nil {
			c.bad(fmt.Sprintf("option %d of SwitchTo", i+1), "nil", "leave it out")
			continue
		}
		o.OnSwitch(&s.settings)
	}
	if c.server.url = target; target != switchover.Embedded {
		c.checkURL("SwitchTo", target)
	}
	for _, o := range s.settings.Access {
		if access, ours := o.(accessOption); ours {
			access.configure(c)
		}
	}
	if target != switchover.Embedded {
		s.strange = c.inheritAccess(b.cfg)
	}
	c.checkCredentials()
	if target == switchover.Embedded && len(c.auth.options) > 0 {
		c.bad("an option of SwitchTo", "access", "leave it out: the embedded server knows the bus")
	}
	if s.settings.MaxWait <= 0 {
		c.bad("switchover.MaxWait", s.settings.MaxWait, "must be more than zero")
	}
	if r := s.settings.CopyRate; r != 0 && r < switchover.MinCopyRate {
		c.bad("switchover.CopyRate", r, fmt.Sprintf("must be at least %d bytes a second", switchover.MinCopyRate))
	}
	s.identity = c.identity()
	s.target = link.Target{URL: target, Access: c.auth.options}
	s.move = storedir.Move{ID: nuid.Next(), Target: withoutCredentials(target), At: time.Now().UTC().Truncate(time.Second)}
	return s, errors.Join(c.errs...)
}

// run connects to both servers and switches.
func (s *busSwitch) run(ctx context.Context) (switchover.Report, error) {
	report := switchover.Report{DryRun: s.settings.DryRun, Target: link.Redact(s.target.URL)}
	source, err := s.dialLocal()
	if err != nil {
		return report, &ConnectError{URL: "the embedded server", Err: err}
	}
	defer source.Close()
	s.conns = 1
	for _, nc := range []*nats.Conn{source, s.b.core.Link.Conn()} {
		if id, err := nc.GetClientID(); err == nil {
			s.own = append(s.own, id)
		}
	}
	target, err := s.dial(s.target.URL)
	if err != nil {
		return report, &ConnectError{URL: report.Target, Err: connectionError(err, s.identity)}
	}
	defer target.Close()
	earlier, err := s.interrupted()
	if err != nil {
		return report, err
	}
	if earlier.ID != "" && earlier.Target != s.move.Target {
		report.Warnings = append(report.Warnings, fmt.Sprintf("an earlier switch to %s failed or was interrupted; if that is another target, copies that do not count may be there: "+
			"delete those of the streams %v whose metadata say %s", earlier.Target, earlier.Streams, engine.Mark(earlier.ID)))
	}
	if len(s.strange) > 0 && s.local.dir != nil {
		report.Warnings = append(report.Warnings, "the next start cannot connect to the target: only SwitchTo was told "+strings.Join(s.strange, " and ")+"; give it to New, too, or to FromEnv")
	}
	report, err = engine.Run(ctx, engine.Config{
		Bus: s, Source: source, Target: target, URLs: strings.Split(s.target.URL, ","), Dial: s.dial, Redact: link.Redact,
		NewStreams: s.newStreams(), Left: s.left(),
		Report: report, ID: s.move.ID, Stale: earlier.ID, Domain: s.local.domain, Linked: !s.local.single,
		DryRun: s.settings.DryRun, MaxWait: s.settings.MaxWait, CopyRate: s.settings.CopyRate, Progress: s.progress,
	})
	s.log(report, err)
	return report, s.publicError(err)
}

// publicError returns the error of the engine as that of SwitchTo.
func (s *busSwitch) publicError(err error) error {
	if failed, ok := errors.AsType[*switchover.Error](err); ok {
		failed.Err = explained(failed.Err)
		if len(failed.LeftBehind) > 0 && s.local.dir == nil {
			move := s.move
			s.b.leftBehind.Store(&move)
		}
		return err
	}
	if _, ok := errors.AsType[*switchover.ObstacleError](err); ok {
		return err
	}
	return s.b.opError("SwitchTo", "", err)
}

// progress calls the function of OnProgress. Whatever ends it, the switch goes on.
func (s *busSwitch) progress(p switchover.Progress) {
	if s.settings.Progress == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				s.b.cfg.logger.Error("the function of switchover.OnProgress panicked", "panic", fmt.Sprint(v), "phase", string(p.Phase))
			}
		}()
		s.settings.Progress(p)
	}()
	<-done
}

// explained is translate, but never drops what err says: it may have several reasons.
func explained(err error) error {
	public := translate(err)
	if strings.Contains(public.Error(), err.Error()) {
		return public
	}
	return fmt.Errorf("%w (%w)", public, err)
}

func (s *busSwitch) log(report switchover.Report, err error) {
	log := s.b.cfg.logger
	for _, w := range report.Warnings {
		log.Warn("switch: "+w, "target", report.Target)
	}
	switch {
	case err != nil && report.DryRun:
		log.Info("a dry run found that the bus cannot switch to another server", "target", report.Target, "error", err)
	case err != nil:
		log.Warn("the switch to another server failed", "target", report.Target, "error", err)
	case !report.DryRun:
		log.Info("switched to another server", "target", report.Target, "streams", len(report.Streams),
			"messages", report.Messages, "bytes", report.Bytes, "waited", report.Waited)
	}
}

// dialLocal connects to the embedded server.
func (s *busSwitch) dialLocal() (*nats.Conn, error) {
	return nats.Connect(link.EmbeddedURL, append([]nats.Option{nats.InProcessServer(inProcess(s.local.dial)),
		nats.Name(s.b.cfg.name + " (switch)"), nats.NoReconnect()}, s.local.access...)...)
}

// inProcess implements nats.InProcessConnProvider.
type inProcess func() (net.Conn, error)

func (f inProcess) InProcessConn() (net.Conn, error) { return f() }

// dial connects to a server of the target, as the bus will do it.
func (s *busSwitch) dial(u string) (*nats.Conn, error) { return s.b.cfg.dial(u, s.target.Access) }

// left returns the ID of the switch home by which the streams came here; empty for none.
func (s *busSwitch) left() string {
	if s.local.dir == nil || s.local.dir.Identity().Home == nil {
		return ""
	}
	return s.local.dir.Identity().Home.ID
}

// interrupted returns the earlier move that may have left copies at a target. It is zero if
// there is none.
func (s *busSwitch) interrupted() (earlier storedir.Move, err error) {
	if s.local.dir == nil {
		if left := s.b.leftBehind.Load(); left != nil {
			earlier = *left
		}
		return earlier, nil
	}
	if earlier, _, err = s.local.dir.Begun(); err != nil {
		return storedir.Move{}, storeError(s.local.dir.Path(), err)
	}
	return earlier, nil
}
