package link

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	pieceSize = 512           // of the server's buffers for small messages: it writes each by itself
	large     = 8 * pieceSize // a piece that is worth its rendezvous
	roomAhead = 32 << 10      // as much as nats.go takes at once

	fewPieces  = 4    // full pieces in a row that begin a session
	manyPieces = 1024 // likewise, where sessions are of no use
	idlePieces = 8    // pieces in a row that end one, since Read could have had them at once
)

// ahead is a connection to the server in this process that reads ahead where that helps.
// Such a connection is a net.Pipe: a write waits until somebody has read all of it, and
// the server writes small messages in pieces of 512 bytes. Without it the server waits
// for each third message until nats.go has parsed the ones before, and nats.go likewise.
// With it small messages take a tenth less time.
//
// States: direct, where Read reads from the pipe; and session, where the goroutine pump
// does and Read takes what that has read. A session costs what comes one by one a step
// from goroutine to goroutine. So it begins after several full pieces, and ends after
// several that found nothing before them. After sessions in which none found anything the
// next begins later and later.
//
// Goroutines: pump, during a session; Close ends it. One goroutine may call Read.
type ahead struct {
	net.Conn

	settled atomic.Bool // the handshake is over, which has deadlines
	full    int         // full pieces in a row; of Read while it is direct

	mu      sync.Mutex
	came    sync.Cond // for Read: there is something, or the session has ended
	taken   sync.Cond // for pump: there is room, or Close
	buf     []byte
	first   int // of what is in buf, which goes on at its start
	held    int // bytes
	session bool
	waiting bool // Read waits
	useful  bool // a piece of the session found something before it
	idle    int  // pieces in a row that found nothing before them, or are large
	enough  int  // full pieces that begin a session
	err     error
	closed  bool
}

func readAhead(nc net.Conn) *ahead {
	a := &ahead{Conn: nc, enough: fewPieces}
	a.came.L, a.taken.L = &a.mu, &a.mu
	return a
}

// SetDeadline implements net.Conn. nats.go lifts the deadline when it has connected, and
// sets none after that.
func (a *ahead) SetDeadline(t time.Time) error {
	a.settled.Store(t.IsZero())
	return a.Conn.SetDeadline(t)
}

// Close implements net.Conn.
func (a *ahead) Close() error {
	a.mu.Lock()
	a.closed = true
	a.came.Signal()
	a.taken.Signal()
	a.mu.Unlock()
	return a.Conn.Close()
}

// Read implements net.Conn.
func (a *ahead) Read(p []byte) (int, error) {
	if n, taken, err := a.take(p); taken {
		return n, err
	}
	n, err := a.Conn.Read(p)
	if a.settled.Load() && err == nil {
		a.look(n)
	}
	return n, err
}

// take reads what was read ahead. During a session it waits for that.
func (a *ahead) take(p []byte) (n int, taken bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.held == 0 && a.session && !a.closed {
		a.waiting = true
		a.came.Wait()
		a.waiting = false
	}
	switch {
	case a.closed:
		return 0, true, io.ErrClosedPipe
	case a.held > 0:
		n = copy(p, a.buf[a.first:min(a.first+a.held, len(a.buf))])
		a.first, a.held = (a.first+n)%len(a.buf), a.held-n
		a.taken.Signal()
		return n, true, nil
	}
	return 0, a.err != nil, a.err
}

// look begins a session after enough full pieces in a row.
func (a *ahead) look(n int) {
	if n < pieceSize || n >= large {
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
		a.buf = make([]byte, roomAhead)
	}
	go a.pump()
}

// pump reads ahead until the session ends.
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
		a.noteLocked(n, err)
	}
}

// roomLocked waits until there is room for a piece, and returns it.
func (a *ahead) roomLocked() []byte {
	for a.held == len(a.buf) && !a.closed {
		a.taken.Wait()
	}
	if a.held == 0 {
		a.first = 0
	}
	next := (a.first + a.held) % len(a.buf)
	return a.buf[next:min(next+len(a.buf)-a.held, len(a.buf))]
}

// noteLocked takes note of a piece.
func (a *ahead) noteLocked(n int, err error) {
	if a.held > 0 && n < large {
		a.idle, a.useful = 0, true
	} else if a.idle++; a.idle == idlePieces {
		a.endLocked()
	}
	a.held += n
	if err != nil {
		a.session, a.err = false, err
	}
	if a.waiting {
		a.came.Signal()
	}
}

// endLocked ends a session that is of no use any more.
func (a *ahead) endLocked() {
	a.session = false
	a.enough = min(2*a.enough, manyPieces)
	if a.useful {
		a.enough = fewPieces
	}
}
