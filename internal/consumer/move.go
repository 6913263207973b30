package consumer

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/sidestream"
)

// A bus that moves to another server quiesces its consumers, detaches them, and copies the
// streams with what the server knows of each durable. Then they go on there. What a handler
// settles meanwhile waits in the buffer of the connection.

// Detach has the server send nothing more to any of these consumers, and waits until all that
// it has sent is here. They are all consumers of the process that are quiesced. The end of that
// ends Detach, too. It may be called again.
func Detach(ctx context.Context, all ...*Consumer) error {
	var intakes []*intake.Durable
	for _, c := range all {
		if in := c.presentIntake(); in != nil {
			intakes = append(intakes, in)
		}
	}
	return intake.Detach(ctx, intakes...)
}

// presentIntake returns what takes the messages of c here, or nil.
func (c *Consumer) presentIntake() *intake.Durable {
	switch t, _ := c.current(); t := t.(type) {
	case *intake.Durable:
		return t
	case *sharedTaker:
		return t.latest()
	}
	return nil
}

// formerIntakes returns what took the messages before Share.
func (c *Consumer) formerIntakes() []*formerIntake {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.former
}

// formerIntake is what took the messages before several processes could share the durable. It
// takes nothing more, and its handlers settle for as long as they run.
type formerIntake struct {
	*intake.Durable
	done   chan struct{} // closed when it has ended
	err    error         // valid then
	cancel context.CancelFunc
}

// end waits until f has ended, at most until ctx ends; then it ends at once.
func (f *formerIntake) end(ctx context.Context) error {
	select {
	case <-f.done:
	case <-ctx.Done():
		f.cancel()
		<-f.done
	}
	return f.err
}

// NewStream returns the stream that is made for the consumer when several processes can reach
// its durable. It is empty if there is nothing to make.
func (c *Consumer) NewStream() string {
	if _, alone := c.own(); !alone || c.cfg.Key.Of == nil {
		return ""
	}
	return sidestream.KeysStream(c.cfg.Stream.Name)
}

// Share prepares a consumer with keys that has its durable for itself for sharing it with
// other processes, which can reach the server from now on. It is called while the consumer is
// quiesced and detached, with the connection at the new server. It returns true if Join must be
// called when the consumer is not quiesced any more; false means that there is nothing to do.
//
// The former intake returns what it has not begun. What its handlers still run is with nobody
// else: the start barrier of the owner waits for it.
func (c *Consumer) Share() (join bool, err error) {
	old, alone := c.own()
	if !alone || c.cfg.Key.Of == nil {
		return false, nil
	}
	c.shared.Store(true)
	fresh, err := c.share()
	if err != nil {
		c.shared.Store(false)
		return false, err
	}
	f := &formerIntake{Durable: old, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	c.mu.Lock()
	ended := c.ended
	if !ended {
		c.taker, c.former = fresh, append(c.former, f)
	}
	c.mu.Unlock()
	if ended {
		cancel()
		return false, ErrEnded
	}
	c.cfg.Holders.release(c)
	go func() { // ends with the handlers that run, or when Drain ends it
		defer close(f.done)
		defer cancel()
		f.err = old.Drain(ctx)
	}()
	return true, nil
}

// joinPause is the pause after an attempt to join that failed.
const joinPause = 100 * time.Millisecond

// joining is how a consumer that Share has prepared becomes a member. Its goroutine tries until
// that succeeds or the consumer ends, and Drain waits for it.
type joining struct {
	done chan struct{} // closed when the goroutine has ended
	err  error         // of the latest attempt; mu of the consumer guards it
}

// Join makes a consumer a member of those that share its durable, after Share. When ctx ends
// first, it returns why the latest attempt failed, and the consumer goes on to try until it
// ends.
func (c *Consumer) Join(ctx context.Context) error {
	j := &joining{done: make(chan struct{})}
	c.mu.Lock()
	fresh, prepared := c.taker.(*sharedTaker)
	if c.ended || !prepared {
		c.mu.Unlock()
		return ErrEnded
	}
	c.joining = j
	c.mu.Unlock()
	go c.join(j, fresh)
	var late error
	select {
	case <-j.done:
	case <-ctx.Done():
		late = context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if j.err != nil {
		return j.err
	}
	return late
}

// join is the goroutine of j.
func (c *Consumer) join(j *joining, fresh *sharedTaker) {
	defer close(j.done)
	for {
		err := c.tryJoin(fresh)
		if c.life.Err() != nil {
			err = context.Cause(c.life)
		}
		c.mu.Lock()
		j.err = err
		c.mu.Unlock()
		if err == nil || sleep(c.life, joinPause) != nil {
			return
		}
	}
}

func (c *Consumer) tryJoin(fresh *sharedTaker) error {
	ctx, done := c.cfg.Core.WithTimeout(c.life)
	defer done()
	if err := sidestream.DeclareKeys(ctx, c.cfg.Core, c.cfg.Stream); err != nil {
		return err
	}
	fresh.Start()
	return nil
}

// awaitJoining waits until nothing joins any more. The consumer is ending.
func (c *Consumer) awaitJoining() {
	c.mu.Lock()
	j := c.joining
	c.mu.Unlock()
	if j != nil {
		<-j.done
	}
}

// Freeze has settlements wait until thaw, and returns all messages that are here and not
// settled, by the API subject that returns the state of their consumer on the server. The
// consumer is detached. thaw must be called also after an error.
func (c *Consumer) Freeze(ctx context.Context) (held map[string][]intake.Holding, thaw func(), err error) {
	held = make(map[string][]intake.Holding)
	var thaws []func()
	thaw = func() {
		for _, f := range thaws {
			f()
		}
	}
	for _, in := range c.intakes() {
		some, thawOne, err := in.Freeze(ctx)
		thaws = append(thaws, thawOne)
		if err != nil {
			return nil, thaw, err
		}
		for info, all := range some {
			held[info] = append(held[info], all...)
		}
	}
	return held, thaw, nil
}

// intakes returns what takes the messages, and what took them before Share.
func (c *Consumer) intakes() (all []*intake.Durable) {
	for _, f := range c.formerIntakes() {
		all = append(all, f.Durable)
	}
	switch t, _ := c.current(); t := t.(type) {
	case *intake.Durable:
		all = append(all, t)
	case *sharedTaker:
		if in := t.latest(); in != nil {
			all = append(all, in)
		}
	}
	return all
}

// Alone reports whether no other process takes part in the durable, as far as this one knows. Of
// durables without keys it does not.
func (c *Consumer) Alone() bool {
	t, _ := c.current()
	s, shared := t.(*sharedTaker)
	return !shared || s.Alone()
}
