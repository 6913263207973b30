package consumer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/serverversion"
	"github.com/omnibus-go/bus/internal/sidestream"
)

// Consumer is one process's part in a durable consumer. The package comment has its states
// and locks. Safe for concurrent use.
type Consumer struct {
	cfg    Config
	side   *sidestream.Store
	intake intake.DurableConfig // of each intake
	did    change               // what Open did to the durable

	mu    sync.Mutex
	taker taker      // the present one: Rewind replaces it
	past  callCounts // of those before
	ended bool       // there will be no other

	former  []*formerIntake // what took the messages before Share; it may still run handlers
	joining *joining        // of Join; nil before
	shared  atomic.Bool     // several processes keep the order of keys together

	deadLetterFailure atomic.Pointer[error] // why the latest dead letter could not be stored; nil if it was
	letterPace        letterPace

	rewinds  lifecycle.Mutex
	quiescer *lifecycle.Exclusive // no Rewind lies across
	life     context.Context      // ends when the end begins
	end      context.CancelCauseFunc
	stopOnce *lifecycle.StopOnce

	lowered chan struct{}  // closed when lowerAckWait has ended; nil without one
	strays  sync.WaitGroup // goroutines that return strays; they end with life
}

// taker takes the messages of a durable: an intake of this process alone, or its part in one
// that several processes share.
type taker interface {
	Start()
	Drain(ctx context.Context) error
	lifecycle.Quiescer
	Err() error
	Stalled() error
	Pending() (msgs, bytes int)
	Begun() int64
	Ended() int64
	InFlight() int
	Longest() (dispatch.Run, bool)
	Lag() (messages int, oldest time.Time)
	RunsCaller(ctx context.Context) bool
}

// callCounts counts handler calls.
type callCounts struct{ begun, ended int64 }

// Open declares what the consumer needs on the server. No message comes before Start. Errors
// are *ConflictError, ErrKeysHeld, *serverversion.Error, and those of packages sidestream, recovery and intake.
func Open(ctx context.Context, cfg Config) (*Consumer, error) {
	c := &Consumer{cfg: cfg, stopOnce: lifecycle.NewStopOnce()}
	c.quiescer = lifecycle.NewExclusive(&c.rewinds, func() lifecycle.Quiescer {
		t, _ := c.current()
		return t
	})
	c.life, c.end = context.WithCancelCause(context.Background())
	c.shared.Store(cfg.Key.Of != nil && !cfg.Core.Alone.Load())
	if c.shared.Load() {
		if err := cfg.Core.Link.Server().Check(serverversion.SharedKeys); err != nil {
			return nil, err
		}
	} else if cfg.Key.Of != nil {
		if err := cfg.Holders.hold(c); err != nil { // before anything is written
			return nil, err
		}
	}
	if err := c.open(ctx); err != nil {
		c.end(ErrEnded)
		c.awaitHelpers()
		cfg.Holders.release(c)
		if left := c.undo(); left != nil {
			err = errors.Join(err, left)
		}
		return nil, err
	}
	return c, nil
}

// open declares the durable and its side streams, and opens the taker.
func (c *Consumer) open(ctx context.Context) error {
	if err := c.prove(ctx); err != nil {
		return err
	}
	info, did, err := declare(ctx, &c.cfg)
	c.did = did
	if err != nil {
		return err
	}
	if c.side, err = sidestream.Open(ctx, c.cfg.Core, c.cfg.Stream, c.cfg.Durable, max(info.Config.AckWait, c.cfg.AckWait)); err != nil {
		return sideError(&c.cfg, err)
	}
	config, lower, err := c.setAckWait(ctx, info)
	if err != nil {
		return err
	}
	if c.shared.Load() {
		if err := sidestream.DeclareKeys(ctx, c.cfg.Core, c.cfg.Stream); err != nil {
			return sideError(&c.cfg, err)
		}
	}
	if err := c.takeBack(ctx); err != nil {
		return err
	}
	if err := c.openTaker(ctx, config); err != nil {
		return err
	}
	if lower {
		c.lowered = make(chan struct{})
		go c.lowerAckWait()
	}
	return nil
}

func (c *Consumer) openTaker(ctx context.Context, config jetstream.ConsumerConfig) (err error) {
	c.intake = c.intakeConfig(config)
	if c.shared.Load() {
		c.taker, err = c.share()
		return err
	}
	if err := c.openRecovery(ctx, &c.intake); err != nil {
		return err
	}
	c.taker, err = intake.OpenDurable(c.cfg.Core.Link, c.intake)
	return err
}

// Start starts to take messages. It is called once, after the consumer is registered.
func (c *Consumer) Start() {
	t, _ := c.current()
	t.Start()
}

// Abort ends a consumer that was not started and is not registered. It does not call Ended.
func (c *Consumer) Abort(ctx context.Context) {
	c.end(ErrEnded)
	t, _ := c.current()
	_ = t.Drain(ctx)
	c.awaitHelpers()
	c.cfg.Holders.release(c)
	_ = c.undo() // the bus is closed: the caller says so
}

// awaitHelpers waits for lowerAckWait and for what returns strays, which end with c.life.
func (c *Consumer) awaitHelpers() {
	c.strays.Wait()
	if c.lowered != nil {
		<-c.lowered
	}
}

// Quiescer quiesces the consumer.
func (c *Consumer) Quiescer() lifecycle.Quiescer { return c.quiescer }

// current returns the present taker, and what those before it did.
func (c *Consumer) current() (taker, callCounts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	past := c.past
	for _, f := range c.former {
		past.begun += f.Begun()
		past.ended += f.Ended()
	}
	return c.taker, past
}

// errStopped is why Stop does not wait.
var errStopped = errors.New("it was stopped")

// Drain takes no more messages, returns those that were not started, waits for the handlers
// and their acknowledgements, and ends the consumer. If ctx ends first it ends at once and
// returns what Config.DrainError makes of an *UnfinishedError. Further calls wait for the first one, unless a handler that the
// first one waits for makes them.
func (c *Consumer) Drain(ctx context.Context) error {
	return c.stopOnce.Do(ctx, func() (err error) {
		if why := c.drainAll(ctx); why != nil && !errors.Is(why, errStopped) {
			err = c.unfinished(why)
		}
		if errors.Is(c.Err(), intake.ErrConsumerDeleted) {
			_ = c.side.RemoveLeftovers(ctx) // they are in nobody's way
		}
		c.awaitHelpers()
		c.cfg.Holders.release(c)
		c.cfg.Ended()
		return err
	}, c.RunsCaller, c.unfinished)
}

// drainAll drains the last taker, and waits for those before it.
func (c *Consumer) drainAll(ctx context.Context) error {
	last := c.last(ctx)
	c.awaitJoining() // it may start last
	err := last.Drain(ctx)
	for _, f := range c.formerIntakes() { // there are no others any more
		err = errors.Join(err, f.end(ctx))
	}
	return err
}

// Stop is Drain without waiting for handlers.
func (c *Consumer) Stop() {
	ctx, cancel := context.WithCancelCause(dispatch.FromCaller(context.Background()))
	cancel(errStopped)
	_ = c.Drain(ctx)
}

// last returns the present taker, and makes sure that there is no other. It ends a Rewind and
// waits for that.
func (c *Consumer) last(ctx context.Context) taker {
	c.end(ErrEnded)
	c.quiescer.Release()
	if unlock, err := c.rewinds.Lock(ctx); err == nil {
		defer unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	return c.taker
}

// unfinished returns what is left now, as an error.
func (c *Consumer) unfinished(why error) error {
	t, _ := c.current()
	e := &UnfinishedError{Running: t.InFlight(), Err: why}
	e.Longest, _ = t.Longest()
	e.Pending, _ = t.Pending()
	if left, ok := errors.AsType[*intake.LeftBehind](why); ok { // handlers may have returned since
		e.Pending, e.Running, e.Err = left.Pending, left.Running, left.Err
	}
	return c.cfg.DrainError(e)
}

// Ending reports whether the consumer has ended or begins to.
func (c *Consumer) Ending() bool { return c.life.Err() != nil }

// Done is closed when the consumer has ended.
func (c *Consumer) Done() <-chan struct{} { return c.stopOnce.Done() }

// Err returns why the consumer ended by itself, or nil.
func (c *Consumer) Err() error {
	t, _ := c.current()
	return t.Err()
}

// RunsCaller reports whether the caller that ctx names is one of the handlers.
func (c *Consumer) RunsCaller(ctx context.Context) bool {
	t, _ := c.current()
	return t.RunsCaller(ctx) || slices.ContainsFunc(c.formerIntakes(), func(f *formerIntake) bool { return f.RunsCaller(ctx) })
}
