package outlet

import (
	"context"
	"fmt"
	"sync"

	"github.com/omnibus-go/bus/internal/plural"
)

// UnfinishedError says that messages had no outcome yet when nobody waited for it longer.
type UnfinishedError struct {
	Messages int
	Err      error // why nobody waited longer
}

func (e *UnfinishedError) Error() string {
	return fmt.Sprintf("%s no outcome yet: %v", plural.Of(e.Messages, "message has", "messages have"), e.Err)
}

// Unwrap returns why nobody waited longer.
func (e *UnfinishedError) Unwrap() error { return e.Err }

// Quiesce holds the gate: messages wait there until Resume, those of Send, Store, StoreBatch
// and of each Window, and new requests, too. It waits until each message that is under way
// has its outcome, those of each Window included. When ctx ends first it returns an
// *UnfinishedError, and the gate stays held. Requests under way are not waited for, and
// replies are sent. After the gate was shut it returns link.ErrShut.
func (o *Outlet) Quiesce(ctx context.Context) error {
	err := o.link.Hold(ctx)
	if n := o.link.Inside(); err != nil && o.link.Open() {
		return &UnfinishedError{Messages: n, Err: err}
	}
	return err
}

// AwaitReplies waits until no request is under way. New ones wait until Resume. When ctx ends
// first it returns an *UnfinishedError; those that are under way go on.
func (o *Outlet) AwaitReplies(ctx context.Context) error {
	if err := o.asking.Hold(ctx); err != nil {
		return &UnfinishedError{Messages: o.asking.Inside(), Err: err}
	}
	return nil
}

// beginRequest waits while the outlet is quiesced. The caller leaves o.asking.
func (o *Outlet) beginRequest(ctx context.Context) error {
	for {
		if err := o.link.Pass(ctx); err != nil {
			return err
		}
		if err := o.asking.Enter(ctx); err != nil {
			return err
		}
		if o.link.Held() {
			o.asking.Leave() // since it was passed
			continue
		}
		return nil
	}
}

// Resume ends Quiesce and AwaitReplies. Without one it does nothing.
func (o *Outlet) Resume() {
	o.link.Release()
	o.asking.Release()
}

// asyncPause is one pause of an Async, from Quiesce until Resume. run settles it.
type asyncPause struct {
	settled chan struct{} // closed when all that was handed over is confirmed or lost
	resumed chan struct{} // closed by Resume
	once    sync.Once     // closes settled
}

func (p *asyncPause) settle() { p.once.Do(func() { close(p.settled) }) }

// Quiesce has run hand over nothing more until Resume, and waits until the server has
// confirmed what was handed over. Add goes on to fill the buffer, and Flush waits. When ctx
// ends first it returns an *UnfinishedError, and the Async stays quiesced. Drain ends it.
func (a *Async) Quiesce(ctx context.Context) error {
	p := a.beginPause()
	if !a.started.Load() {
		return nil // what begins later finds the pause
	}
	select {
	case <-p.settled:
		return nil
	case <-p.resumed:
		return nil
	case <-a.done:
		return nil
	case <-ctx.Done():
		return &UnfinishedError{Messages: int(a.unconfirmed.Load()), Err: context.Cause(ctx)}
	}
}

// beginPause returns the present pause. If there is none it begins one and has run look.
func (a *Async) beginPause() *asyncPause {
	p := &asyncPause{settled: make(chan struct{}), resumed: make(chan struct{})}
	if !a.pause.CompareAndSwap(nil, p) {
		if now := a.pause.Load(); now != nil {
			return now
		}
		return a.beginPause() // it has ended meanwhile
	}
	select {
	case a.paused <- struct{}{}:
	default:
	}
	return p
}

// Resume ends Quiesce. Without one it does nothing.
func (a *Async) Resume() {
	if p := a.pause.Swap(nil); p != nil {
		close(p.resumed)
	}
}

// whilePaused returns when there is no pause, or Drain has begun. Meanwhile it follows the
// connection and has the server confirm what was handed over. It belongs to run.
func (a *Async) whilePaused() {
	for p := a.pause.Load(); p != nil; p = a.pause.Load() {
		a.readStates()
		a.flushIfNeeded()
		unconfirmed := a.confirmations.unconfirmed()
		a.unconfirmed.Store(int64(unconfirmed))
		if !a.confirmations.flushing && unconfirmed == 0 {
			p.settle()
		}
		select {
		case err := <-a.confirmations.flushResult:
			a.flushed(err)
		case s := <-a.confirmations.states:
			a.setState(s)
		case <-p.resumed:
		case <-a.closing:
			return
		}
	}
}
