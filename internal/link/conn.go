package link

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

const (
	// chunkSize is how many bytes must get through within the stall time.
	chunkSize = 64 << 10
	// minStall is the shortest stall time, however short the timeout of the bus is.
	minStall = 5 * time.Second
	// embeddedStall is the stall time of the server in this process. That server reads
	// nothing while it waits for the disk.
	embeddedStall = time.Minute
)

// conn is a connection that a peer cannot block for ever: a write that makes no progress
// within stall fails, however long the whole write may take. A write that fails ends the
// connection. Otherwise nats.go would drop what it could not write and go on, and a later
// PING would be answered as if everything before it had arrived.
//
// nats.go may write on the goroutine that publishes: what it has in its buffer, that message
// last. So if a publish returns ErrDisconnected, its message was not sent as a whole.
//
// One timer bounds all writes, because a deadline for each write of a pipe takes two
// allocations. So there is one write at a time: nats.go writes under a lock.
type conn struct {
	net.Conn
	stall     time.Duration
	stalled   *time.Timer   // runs during a write, and fails it
	gaveUp    chan struct{} // has one element when the timer has fired
	ended     atomic.Bool   // it was closed
	handshake time.Duration // how long the handshake may take; zero: as nats.go says
	move      int           // the number of the dialer's target when it was dialled
	heard     hearing
}

// guarded wraps nc.
func guarded(nc net.Conn, stall time.Duration) *conn {
	c := &conn{Conn: nc, stall: stall, gaveUp: make(chan struct{}, 1)}
	c.stalled = time.AfterFunc(stall, c.giveUp)
	c.stalled.Stop()
	return c
}

// giveUp fails the current write. The timer calls it.
func (c *conn) giveUp() {
	_ = c.SetWriteDeadline(time.Unix(1, 0))
	c.gaveUp <- struct{}{}
}

// write writes p within stall.
func (c *conn) write(p []byte) (n int, err error) {
	c.stalled.Reset(c.stall)
	n, err = c.Conn.Write(p)
	if !c.stalled.Stop() { // too late, or just in time
		<-c.gaveUp
		_ = c.SetWriteDeadline(time.Time{}) // the next one has its own time
	}
	return n, err
}

// SetDeadline implements net.Conn. nats.go sets one for the handshake, and lifts it when it has
// connected.
func (c *conn) SetDeadline(t time.Time) error {
	if latest := time.Now().Add(c.handshake); c.handshake > 0 && t.After(latest) {
		t = latest
	}
	return c.Conn.SetDeadline(t)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.ended.Store(true)
	return c.Conn.Close()
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (n int, err error) {
	for {
		m, err := c.write(p[n:min(len(p), n+chunkSize)])
		n += m
		if err != nil {
			refusal := c.refusal()
			_ = c.Close()
			if refusal != nil {
				return n, fmt.Errorf("%w (%w)", refusal, err)
			}
			return n, fmt.Errorf("%w: %w", ErrDisconnected, err)
		}
		if n == len(p) {
			return n, nil
		}
	}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (n int, err error) {
	n, err = c.Conn.Read(p)
	if c.heard.on.Load() {
		c.heard.add(p[:n])
	}
	return n, err
}
