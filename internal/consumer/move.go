package consumer

import (
	"context"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/sidestream"
)

// A bus that moves to another server quiesces its consumers, detaches them, and copies the
// streams with what the server knows of each durable. Then they go on there. What a handler
// settles meanwhile waits in the buffer of the connection.

// Detach has the server send nothing more, and waits until all that it has sent is here. The
// consumer is quiesced. The end of that ends Detach, too.
func (c *Consumer) Detach(ctx context.Context) error {
	t, _ := c.current()
	switch t := t.(type) {
	case *intake.Durable:
		return t.Detach(ctx)
	case *sharedTaker:
		if in := t.latest(); in != nil {
			return in.Detach(ctx)
		}
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

// Share prepares a consumer with keys that has its durable for itself for sharing it with
// other processes, which can reach the server from now on. It is called while the consumer is
// quiesced and detached, with the connection at the new server. The function that it returns
// makes the consumer a member; it must be called when the consumer is not quiesced any more,
// and again while it fails. Nil means that there is nothing to do.
//
// The former intake returns what it has not begun. What its handlers still run is with nobody
// else: the start barrier of the owner waits for it.
func (c *Consumer) Share(context.Context) (start func(context.Context) error, err error) {
	old, alone := c.own()
	if !alone || c.cfg.Key.Of == nil {
		return nil, nil
	}
	c.shared.Store(true)
	fresh, err := c.share()
	if err != nil {
		c.shared.Store(false)
		return nil, err
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
		return nil, ErrEnded
	}
	c.cfg.Holders.release(c)
	go func() { // ends with the handlers that run, or when Drain ends it
		defer close(f.done)
		defer cancel()
		f.err = old.Drain(ctx)
	}()
	return func(ctx context.Context) error {
		if err := sidestream.DeclareKeys(ctx, c.cfg.Core, c.cfg.Stream); err != nil {
			return err
		}
		fresh.Start()
		return nil
	}, nil
}
