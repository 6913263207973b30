package link

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

const (
	// stallChunk is how many bytes must get through within the time of a stall.
	stallChunk = 64 << 10
	// leastStall is no stall yet, however little patience the user has.
	leastStall = 5 * time.Second
	// embeddedStall is that of the server in this process, which answers for the
	// disk: it reads nothing while it waits for that.
	embeddedStall = time.Minute
)

// conn is a connection that a peer cannot hold up: a write that makes no progress
// within stall fails, however long the whole of it may take. nats.go drops what
// it could not write and goes on, so that a later PING would be answered as if
// everything before had arrived; hence a write that fails ends the connection.
//
// nats.go may write where it publishes: what it has in its buffer, that message last.
// So where a publish returns ErrDisconnected its message was not sent as a whole.
//
// The time is kept by one timer, since a deadline for each write of a pipe takes two
// allocations. So there is one write at a time: nats.go writes under a lock.
type conn struct {
	net.Conn
	stall   time.Duration
	stalled *time.Timer   // runs while something is written, and then ends that
	gaveUp  chan struct{} // holds one when the timer has ended
	ended   atomic.Bool   // somebody has closed it
	move    int           // the dialer's when it was dialled
}

// guarded returns nc as a conn.
func guarded(nc net.Conn, stall time.Duration) *conn {
	c := &conn{Conn: nc, stall: stall, gaveUp: make(chan struct{}, 1)}
	c.stalled = time.AfterFunc(stall, c.giveUp)
	c.stalled.Stop()
	return c
}

// giveUp ends the write that goes on.
func (c *conn) giveUp() {
	_ = c.SetWriteDeadline(time.Unix(1, 0))
	c.gaveUp <- struct{}{}
}

// write is Write for what must get through within stall.
func (c *conn) write(p []byte) (n int, err error) {
	c.stalled.Reset(c.stall)
	n, err = c.Conn.Write(p)
	if !c.stalled.Stop() { // too late, or just in time
		<-c.gaveUp
		_ = c.SetWriteDeadline(time.Time{}) // the next one has its own time
	}
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.ended.Store(true)
	return c.Conn.Close()
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (n int, err error) {
	for {
		m, err := c.write(p[n:min(len(p), n+stallChunk)])
		n += m
		if err != nil {
			_ = c.Close()
			return n, fmt.Errorf("%w: %w", ErrDisconnected, err)
		}
		if n == len(p) {
			return n, nil
		}
	}
}
