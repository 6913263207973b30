package link

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// ErrShut is returned by Enter once the gate is shut for good.
var ErrShut = errors.New("the gate is shut")

// shutBit marks a shut gate; the bits below it count who is inside.
const shutBit = 1 << 62

// Gate is the one way out: every publish passes it, and whoever stops the bus
// shuts it and waits until nobody is inside. Passing an open gate costs two
// atomic additions and takes no lock. Safe for concurrent use.
type Gate struct {
	state atomic.Int64
	empty chan struct{}
	once  sync.Once
}

// NewGate returns an open gate.
func NewGate() *Gate { return &Gate{empty: make(chan struct{})} }

// Enter lets the caller in, who must Leave, or returns ErrShut.
func (g *Gate) Enter() error {
	if g.state.Add(1)&shutBit != 0 {
		g.Leave()
		return ErrShut
	}
	return nil
}

// Leave ends what Enter began.
func (g *Gate) Leave() {
	if g.state.Add(-1) == shutBit {
		g.once.Do(func() { close(g.empty) })
	}
}

// Open reports whether Enter would let a caller in.
func (g *Gate) Open() bool { return g.state.Load()&shutBit == 0 }

// Shut closes the gate for good and waits until everybody inside has left, or
// ctx ends; then it returns the cause of ctx. It may be called again.
func (g *Gate) Shut(ctx context.Context) error {
	for {
		s := g.state.Load()
		if s&shutBit != 0 {
			break
		}
		if g.state.CompareAndSwap(s, s|shutBit) {
			if s == 0 {
				g.once.Do(func() { close(g.empty) })
			}
			break
		}
	}
	select {
	case <-g.empty:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-g.empty: // that counts, even if both are true
		return nil
	default:
		return context.Cause(ctx)
	}
}
