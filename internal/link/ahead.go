package link

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	pieceSize  = 512           // bytes of the server's buffers for small messages; it writes each buffer by itself
	largePiece = 8 * pieceSize // a piece of this size gains nothing from reading ahead
	bufferSize = 32 << 10      // as much as nats.go reads at once

	minFullPieces = 4    // so many full pieces in a row begin a session
	maxFullPieces = 1024 // the same, after sessions that did not help
	maxIdlePieces = 8    // so many pieces in a row that were not read ahead end a session
)

// ahead is a connection to the server in this process that reads ahead while that helps.
// Such a connection is a net.Pipe: a write waits until all of it is read. The server writes
// small messages in pieces of 512 bytes. Without ahead the server waits at each third message
// until nats.go has parsed the ones before, and nats.go waits for the server. With ahead small
// messages take a tenth less time.
//
// States: direct, in which Read reads from the pipe, and session, in which the goroutine pump
// reads from the pipe and Read takes what pump has read. In a session each message takes one
// step more from goroutine to goroutine. So a session begins after several full pieces, and
// ends after several pieces that were not read ahead. After a session that did not help, the
// next one needs twice as many full pieces.
//
// Goroutines: pump during a session; Close ends it. One goroutine may call Read. mu guards the
// fields below it.
type ahead struct {
	net.Conn

	handshaken atomic.Bool // the handshake, which has deadlines, is over
	full       int         // full pieces in a row; only Read uses it, while the connection is direct

	mu      sync.Mutex
	filled  sync.Cond // for Read: buf has bytes, or the session has ended
	drained sync.Cond // for pump: buf has room, or the connection is closed
	buf     []byte
	first   int // where the bytes in buf begin; buf is a ring
	held    int // bytes in buf
	session bool
	waiting bool // Read waits
	useful  bool // a piece of this session was read ahead
	idle    int  // pieces in a row that were not read ahead, or are large
	enough  int  // full pieces that begin the next session
	err     error
	closed  bool
}

// readAhead wraps a connection to the server in this process.
func readAhead(nc net.Conn) *ahead {
	a := &ahead{Conn: nc, enough: minFullPieces}
	a.filled.L, a.drained.L = &a.mu, &a.mu
	return a
}

// SetDeadline implements net.Conn. nats.go lifts the deadline when it has connected, and
// sets none after that.
func (a *ahead) SetDeadline(t time.Time) error {
	a.handshaken.Store(t.IsZero())
	return a.Conn.SetDeadline(t)
}

// Close implements net.Conn.
func (a *ahead) Close() error {
	a.mu.Lock()
	a.closed = true
	a.filled.Signal()
	a.drained.Signal()
	a.mu.Unlock()
	return a.Conn.Close()
}

// Read implements net.Conn.
func (a *ahead) Read(p []byte) (int, error) {
	if n, ok, err := a.readBuffered(p); ok {
		return n, err
	}
	n, err := a.Conn.Read(p)
	if a.handshaken.Load() && err == nil {
		a.countPiece(n)
	}
	return n, err
}

// readBuffered returns bytes that pump has read. During a session it waits for them.
func (a *ahead) readBuffered(p []byte) (n int, ok bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.held == 0 && a.session && !a.closed {
		a.waiting = true
		a.filled.Wait()
		a.waiting = false
	}
	switch {
	case a.closed:
		return 0, true, io.ErrClosedPipe
	case a.held > 0:
		n = copy(p, a.buf[a.first:min(a.first+a.held, len(a.buf))])
		a.first, a.held = (a.first+n)%len(a.buf), a.held-n
		a.drained.Signal()
		return n, true, nil
	}
	return 0, a.err != nil, a.err
}

// countPiece begins a session after enough full pieces in a row.
func (a *ahead) countPiece(n int) {
	if n < pieceSize || n >= largePiece {
		a.full = 0
		return
	}
	if a.full++; a.full < a.enough {
		return
	}
	a.full = 0
	a.mu.Lock()
	defer a.mu.Unlock()
	a.session, a.useful, a.idle = true, false, 0
	if a.buf == nil {
		a.buf = make([]byte, bufferSize)
	}
	go a.pump()
}

// pump reads ahead until the session ends. It is the goroutine of a session.
func (a *ahead) pump() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.session {
		room := a.roomLocked()
		if a.closed {
			return
		}
		a.mu.Unlock()
		n, err := a.Conn.Read(room)
		a.mu.Lock()
		a.addPieceLocked(n, err)
	}
}

// roomLocked waits until buf has room, and returns that part of buf.
func (a *ahead) roomLocked() []byte {
	for a.held == len(a.buf) && !a.closed {
		a.drained.Wait()
	}
	if a.held == 0 {
		a.first = 0
	}
	next := (a.first + a.held) % len(a.buf)
	return a.buf[next:min(next+len(a.buf)-a.held, len(a.buf))]
}

// addPieceLocked adds a piece that pump has read, and ends a session that does not help.
func (a *ahead) addPieceLocked(n int, err error) {
	if a.held > 0 && n < largePiece {
		a.idle, a.useful = 0, true
	} else if a.idle++; a.idle == maxIdlePieces {
		a.endSessionLocked()
	}
	a.held += n
	if err != nil {
		a.session, a.err = false, err
	}
	if a.waiting {
		a.filled.Signal()
	}
}

// endSessionLocked ends the session.
func (a *ahead) endSessionLocked() {
	a.session = false
	a.enough = min(2*a.enough, maxFullPieces)
	if a.useful {
		a.enough = minFullPieces
	}
}
