package embedded

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus/internal/jserr"
)

// room is the limits of memory and disk for streams, and a reserve beyond them for what
// makes room: a dead letter must be stored before its message can go, and so must what is
// written about a message that is settled.
//
// The limits are those of the account, because the server can lower them while it runs. Its own
// limits are out of the way. InReserve raises them, for one message at a time, by what that
// message needs. Another message may take that place meanwhile. Then it tries a few times more,
// and the caller later.
//
// States: open, then closed for ever, when the store directory is lost. The server of a closed
// room takes no messages for streams. A raise that is under way then changes nothing any more.
type room struct {
	server        *server.Server
	memory, store int64 // the limits in bytes
	payload       int64 // bytes of the largest message
	onFull        atomic.Pointer[func()]
	telling       atomic.Bool // onFull runs

	raise chan struct{} // has one element during a raise

	mu     sync.Mutex // held while the server's limits change
	closed bool
}

// reserveOf returns the size of the reserve beyond a limit. Each half of it has room for two
// messages.
func (r *room) reserveOf(limit int64) int64 {
	return max(min(max(limit/8, 4<<20), 1<<30), 4*r.payload)
}

// noLimit is the server's own limit where the account has the limits.
const noLimit = math.MaxInt64 / 4

// takeLimits moves the limits from opts to the returned room, which limit applies when the
// server runs. It returns nil if the server shares its limits with other servers or accounts.
func takeLimits(opts *server.Options) *room {
	if !isSingle(opts) || len(opts.Accounts) > 0 || opts.JetStreamMaxMemory <= 0 || opts.JetStreamMaxStore <= 0 {
		return nil
	}
	r := &room{memory: opts.JetStreamMaxMemory, store: opts.JetStreamMaxStore, payload: int64(opts.MaxPayload), raise: make(chan struct{}, 1)}
	opts.JetStreamMaxMemory, opts.JetStreamMaxStore = noLimit, noLimit
	return r
}

// limit applies the limits to s.
func (r *room) limit(s *server.Server) error {
	if r == nil {
		return nil
	}
	r.server = s
	return r.set(r.memory, r.store)
}

// set changes the account's limits. In a closed room it returns errClosed.
func (r *room) set(memory, store int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errClosed
	}
	err := r.server.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {
		MaxMemory: memory, MaxStore: store, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1,
		MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1,
	}})
	if err != nil {
		return fmt.Errorf("the server does not take the limits of memory and disk: %w", err)
	}
	return nil
}

// errClosed says that the store directory is lost.
var errClosed = errors.New("the store directory is lost")

// unusedTier is a tier of streams that no stream has.
const unusedTier = "R0"

// close has the server refuse each message for a stream, for ever. It takes the limits of the
// account away, without which the server stores nothing. What is stored can still be read. A
// server without a room of its own has it too.
func (r *room) close(s *server.Server) error {
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.closed = true
	}
	return s.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{unusedTier: {}})
}

// InReserve calls fn, which stores one message of size bytes or declares a stream, while the
// limits are that much higher: within the reserve, or with half within one half of it. One call
// waits for the others, until ctx ends. It returns the error of fn, or why it did not call fn.
// Safe for concurrent use.
func (s *Server) InReserve(ctx context.Context, size int, half bool, fn func() error) error {
	r := s.room
	if r == nil {
		return fn()
	}
	select {
	case r.raise <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("others wait for the reserve, too: %w", ctx.Err())
	}
	defer func() { <-r.raise }()
	defer func() { _ = r.set(r.memory, r.store) }() // lower limits are never refused
	for tries := 1; ; tries++ {
		if err := r.raiseFor(size, half); err != nil {
			return err
		}
		if err := fn(); tries == maxTries || !jserr.IsFull(err) {
			return err
		}
	}
}

// maxTries is how often InReserve tries to be faster than other messages.
const maxTries = 8

// raiseFor raises the limits by a message of size bytes.
func (r *room) raiseFor(size int, half bool) error {
	usage := r.server.GlobalAccount().JetStreamUsage()
	raised := func(limit int64, used uint64) int64 {
		reserve := r.reserveOf(limit)
		if half {
			reserve /= 2
		}
		return min(max(int64(used), limit)+int64(size)+maxRecord, limit+reserve)
	}
	return r.set(raised(r.memory, usage.Memory), raised(r.store, usage.Store))
}

// maxRecord is more than the server adds to the size of a message.
const maxRecord = 1 << 10

// Usage is how much of a limit is in use.
type Usage struct {
	Option      string // that sets the limit
	Used, Limit int64  // bytes
}

// Usage returns the use of memory and disk by streams.
func (s *Server) Usage() []Usage {
	r := s.room
	if r == nil {
		return nil
	}
	usage := s.server.GlobalAccount().JetStreamUsage()
	return []Usage{{"WithMaxMemory", int64(usage.Memory), r.memory}, {"WithMaxStore", int64(usage.Store), r.store}}
}

// OnFull has fn called when the server has refused a message because a limit is reached, at
// most about once a second, on a goroutine of its own. Nobody waits for that goroutine, so fn
// may call Stop. New calls it once.
func (s *Server) OnFull(fn func()) {
	if s.room != nil {
		s.room.onFull.Store(&fn)
	}
}

// noticed reports whether text is the server's line about a limit that is reached, which is
// reported as an event.
func (r *room) noticed(text string) bool {
	if r == nil || !strings.Contains(text, "resource limits exceeded") {
		return false
	}
	fn := r.onFull.Load()
	if fn != nil && r.telling.CompareAndSwap(false, true) {
		go func() {
			defer r.telling.Store(false)
			(*fn)()
		}()
	}
	return fn != nil
}
