package link

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// ErrShut is returned by Enter once the gate is shut for good.
var ErrShut = errors.New("the gate is shut")

// ErrHeld is returned by TryEnter while the gate is held.
var ErrHeld = errors.New("the gate is held")

// The bits below heldBit count who is inside.
const (
	shutBit = 1 << 62 // the gate is shut
	heldBit = 1 << 61 // the gate is held
)

// Gate is the one way out. Every publish passes it. Whoever stops the bus shuts it, and
// whoever quiesces the bus holds it. Both wait until nobody is inside. To pass an open gate
// costs two atomic additions and takes no lock. Safe for concurrent use.
//
// States: open ⇄ held → shut, and open → shut.
type Gate struct {
	state atomic.Int64

	mu      sync.Mutex
	release chan struct{} // closed when the hold ends; nil while the gate is not held
	empty   chan struct{} // closed when nobody is inside; nil while nobody waits for that
}

// NewGate returns an open gate.
func NewGate() *Gate { return new(Gate) }

// Enter lets the caller in, who must Leave. While the gate is held it waits, and returns the
// error of ctx when that ends first. When the gate is shut it returns ErrShut.
func (g *Gate) Enter(ctx context.Context) error {
	for {
		if err := g.TryEnter(); !errors.Is(err, ErrHeld) {
			return err
		}
		if err := g.awaitRelease(ctx); err != nil {
			return err
		}
	}
}

// TryEnter is Enter that returns ErrHeld instead of waiting.
func (g *Gate) TryEnter() error {
	s := g.state.Add(1)
	if s&(shutBit|heldBit) == 0 {
		return nil
	}
	g.Leave()
	if s&shutBit != 0 {
		return ErrShut
	}
	return ErrHeld
}

// Leave ends what Enter began.
func (g *Gate) Leave() {
	if s := g.state.Add(-1); s&(shutBit|heldBit) != 0 && inside(s) == 0 {
		g.wakeEmpty()
	}
}

// inside is how many are inside a gate in the state s.
func inside(s int64) int64 { return s & (heldBit - 1) }

// Open reports whether the gate is not shut. It may be held.
func (g *Gate) Open() bool { return g.state.Load()&shutBit == 0 }

// Held reports whether the gate is held.
func (g *Gate) Held() bool { return g.state.Load()&heldBit != 0 }

// Pass waits while the gate is held, without entering it. It is for messages that nobody
// waits for when the gate is shut. It returns the same errors as Enter.
func (g *Gate) Pass(ctx context.Context) error {
	for {
		switch s := g.state.Load(); {
		case s&shutBit != 0:
			return ErrShut
		case s&heldBit == 0:
			return nil
		}
		if err := g.awaitRelease(ctx); err != nil {
			return err
		}
	}
}

// Hold makes Enter wait until Release, and waits until everybody inside has left. When ctx
// ends first it returns the cause of ctx, and the gate stays held. A shut gate stays shut:
// then Hold returns ErrShut. It may be called again.
func (g *Gate) Hold(ctx context.Context) error {
	g.mu.Lock()
	if !g.Open() {
		g.mu.Unlock()
		return ErrShut
	}
	if g.release == nil {
		g.release = make(chan struct{})
		g.state.Or(heldBit)
	}
	g.mu.Unlock()
	return g.awaitEmpty(ctx)
}

// Release ends Hold. On a gate that is not held it does nothing.
func (g *Gate) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.releaseLocked()
}

func (g *Gate) releaseLocked() {
	if g.release != nil {
		g.state.And(^heldBit)
		close(g.release)
		g.release = nil
	}
}

// Shut closes the gate for good, also a held one, and waits until everybody inside has
// left, or ctx ends; then it returns the cause of ctx. It may be called again.
func (g *Gate) Shut(ctx context.Context) error {
	g.mu.Lock()
	g.state.Or(shutBit)
	g.releaseLocked() // those that wait find it shut
	g.mu.Unlock()
	return g.awaitEmpty(ctx)
}

// Inside is how many are inside.
func (g *Gate) Inside() int { return int(inside(g.state.Load())) }

// awaitRelease waits until the gate is not held.
func (g *Gate) awaitRelease(ctx context.Context) error {
	g.mu.Lock()
	release := g.release
	g.mu.Unlock()
	if release == nil {
		return nil
	}
	select {
	case <-release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// awaitEmpty waits until nobody is inside, or ctx ends.
func (g *Gate) awaitEmpty(ctx context.Context) error {
	for {
		g.mu.Lock()
		if g.Inside() == 0 {
			g.mu.Unlock()
			return nil
		}
		if g.empty == nil {
			g.empty = make(chan struct{})
		}
		empty := g.empty
		g.mu.Unlock()
		select {
		case <-empty: // look again: somebody may have looked in since
		case <-ctx.Done():
			if g.Inside() == 0 {
				return nil
			}
			return context.Cause(ctx)
		}
	}
}

// wakeEmpty wakes those that wait in awaitEmpty.
func (g *Gate) wakeEmpty() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}
