package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/consumer"
	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/plural"
	"github.com/omnibus-go/bus/internal/storedir"
	engine "github.com/omnibus-go/bus/internal/switchover"
)

// OtherClients implements engine.Bus.
func (s *busSwitch) OtherClients() (now int, ever uint64) {
	now, ever = s.local.clients()
	own := s.conns
	if s.b.core.Connected() && !s.cut {
		own++
	}
	return max(now-own, 0), ever
}

// DescribeClients implements engine.Bus.
func (s *busSwitch) DescribeClients() []string { return s.local.describe(s.own...) }

// Journal implements engine.Bus.
func (s *busSwitch) Journal(streams []string) error {
	s.move.Streams = streams
	if s.local.dir == nil {
		return nil
	}
	return s.local.dir.BeginMove(s.move)
}

// newStreams returns the streams that consumers need at the target and not here.
func (s *busSwitch) newStreams() (all []string) {
	for _, c := range s.consumers() {
		if name := c.engine.NewStream(); name != "" && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

// HoldConsumers implements engine.Bus.
func (s *busSwitch) HoldConsumers(ctx context.Context, streams []string) error {
	if err := s.holdCalls(ctx); err != nil {
		return err
	}
	defer s.b.calls.Release() // the copy may take longer than a call can wait
	var held []*consumer.Consumer
	for _, c := range s.consumers() {
		if !slices.Contains(streams, c.stream) {
			continue
		}
		s.early, held = append(s.early, c), append(held, c.engine)
		if err := quiesceBriefly(ctx, c.engine.Quiescer().Quiesce); err != nil {
			return fmt.Errorf("consumer %s: %w", c.durable, err)
		}
	}
	if err := consumer.Detach(ctx, held...); err != nil {
		return err
	}
	return s.b.core.Link.Flush(ctx, s.b.core.Timeout)
}

// handlerGrace is how long a switch waits for handlers, so that most of them settle or reply
// before the cut. What the others send waits in the buffer of the connection, and requests
// under way wait for those replies.
const handlerGrace = 50 * time.Millisecond

// Hold implements engine.Bus. Requests come first, as long as the responders answer.
func (s *busSwitch) Hold(ctx context.Context) error {
	b := s.b
	s.former = b.core.Link.Target()
	if err := s.holdCalls(ctx); err != nil {
		return err
	}
	if err := b.registry.QuiesceSenders(ctx); err != nil {
		return err
	}
	brief, cancel := context.WithTimeout(ctx, handlerGrace)
	defer cancel()
	_ = b.core.Outlet.AwaitReplies(brief) // the others come after the switch
	if err := quiesceBriefly(ctx, s.b.registry.Quiesce); err != nil {
		return err
	}
	var all []*consumer.Consumer
	for _, c := range s.consumers() {
		all = append(all, c.engine)
	}
	return consumer.Detach(ctx, all...)
}

// holdCalls waits for calls of a few requests to the server, such as Consume, and has further
// ones wait. It may be called again.
func (s *busSwitch) holdCalls(ctx context.Context) error {
	if err := s.b.calls.Hold(ctx); err != nil {
		return fmt.Errorf("%s to the server did not end: %w", plural.Of(s.b.calls.Inside(), "call", "calls"), err)
	}
	return nil
}

// quiesceBriefly calls quiesce, so that no handler call begins. It does not wait for handlers
// that run long, but for other work, such as a Rewind.
func quiesceBriefly(ctx context.Context, quiesce func(context.Context) error) error {
	for {
		brief, cancel := context.WithTimeout(ctx, handlerGrace)
		err := quiesce(brief)
		cancel()
		if err == nil || onlyHandlers(err) {
			return nil
		}
		if _, running := errors.AsType[*lifecycle.StillRunningError](err); !running && brief.Err() == nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}

// onlyHandlers reports whether err says that handlers run, and nothing else.
func onlyHandlers(err error) bool {
	if running, ok := errors.AsType[*lifecycle.StillRunningError](err); ok {
		return !slices.ContainsFunc(running.Running, func(r lifecycle.StillRunning) bool { return !onlyHandlers(r.Err) })
	}
	_, handlers := errors.AsType[*dispatch.RunningError](err)
	return handlers
}

// consumers returns the live consumers of the bus.
func (s *busSwitch) consumers() (all []*Consumer) {
	for _, m := range s.b.registry.Members() {
		if c, ok := m.(*Consumer); ok {
			all = append(all, c)
		}
	}
	return all
}

// Cut implements engine.Bus.
func (s *busSwitch) Cut(ctx context.Context) error {
	if err := s.b.core.Link.Cut(ctx); err != nil {
		return err
	}
	s.cut = true
	for {
		others, ever := s.OtherClients()
		if others == 0 {
			s.ever = ever
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", engine.ClientsText(others, s.DescribeClients()), context.Cause(ctx))
		}
	}
}

// Commit implements engine.Bus.
func (s *busSwitch) Commit(ids *dedup.IDs) error {
	if _, ever := s.OtherClients(); ever != s.ever {
		return errors.New("another client has connected to the port of this bus since the cut; keep clients away while it switches")
	}
	s.ids = ids
	dir := s.local.dir
	if dir == nil {
		return nil
	}
	if ids.Len() > 0 {
		if err := dir.KeepIDs(ids.Encode(s.move.ID)); err != nil {
			return err
		}
	}
	err := dir.CommitMove(s.move)
	if errors.Is(err, storedir.ErrUndecided) {
		s.b.loseStore(err)
	}
	return err
}

// Connect implements engine.Bus.
func (s *busSwitch) Connect(ctx context.Context) error {
	b := s.b
	b.local.Store(nil)
	b.core.InMemory.Store(false)
	b.core.Alone.Store(false)
	if !s.local.alone {
		s.stopLocal() // at once: other clients could write to it
	}
	return b.core.Link.Lead(ctx, s.target)
}

func (s *busSwitch) stopLocal() {
	if err := s.local.stop(); err != nil {
		s.b.cfg.logger.Warn("the embedded server did not stop as it should after the switch", "error", err)
	}
}

// Release implements engine.Bus.
func (s *busSwitch) Release(context.Context) {
	for _, c := range s.consumers() {
		join, err := c.engine.Share()
		s.reportShare(c, "the connection of the bus is closed", err)
		if join {
			s.joining = append(s.joining, c)
		}
	}
	s.b.answerFor(s.ids)
	s.resumeMessages()
}

// ReleaseCalls implements engine.Bus.
func (s *busSwitch) ReleaseCalls() { s.b.calls.Release() }

// Settle implements engine.Bus. Consumers with keys share their durables from now on.
func (s *busSwitch) Settle(ctx context.Context) {
	for _, c := range s.joining {
		s.reportShare(c, "it is tried again", c.engine.Join(ctx))
	}
	if s.local.alone {
		s.stopLocal()
	}
}

// reportShare reports that a consumer with keys takes no messages after a switch, unless err is
// nil or the consumer has ended. next is what happens then.
func (s *busSwitch) reportShare(c *Consumer, next string, err error) {
	if err == nil || errors.Is(err, consumer.ErrEnded) {
		return
	}
	c.report(event.Event{Kind: event.ConsumerStalled, Stream: c.stream, Durable: c.durable,
		Err: fmt.Errorf("after the switch it cannot share the durable with other processes yet, and takes no messages; %s: %w", next, c.publicError(err))})
}

// Return implements engine.Bus.
func (s *busSwitch) Return(ctx context.Context) error {
	defer s.resume()
	if !s.cut {
		return nil
	}
	return s.b.core.Link.Lead(ctx, s.former)
}

// resume ends Hold and HoldConsumers.
func (s *busSwitch) resume() {
	s.resumeMessages()
	s.ReleaseCalls()
}

// resumeMessages has publishers, requests and consumers go on.
func (s *busSwitch) resumeMessages() {
	s.b.registry.Resume()
	for _, c := range s.early {
		c.engine.Quiescer().Resume()
	}
}

// Abort implements engine.Bus.
func (s *busSwitch) Abort() error {
	if s.local.dir == nil {
		return nil
	}
	return s.local.dir.EndMove()
}
