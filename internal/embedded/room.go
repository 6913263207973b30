package embedded

import (
	"fmt"
	"math"
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats-server/v2/server"
)

// room is the limits of memory and disk for streams, and a reserve beyond them for what
// makes room: a dead letter must be stored before its message can go, and so must what is
// written about a message that is settled.
//
// The limits are those of the account, because the server can lower them while it runs. Its own
// limits are out of the way. InReserve raises them, for one message at a time, by what that
// message needs. Another message may take that place meanwhile; then the caller tries again
// later.
type room struct {
	server        *server.Server
	memory, store int64 // the limits in bytes
	onFull        atomic.Pointer[func()]
	telling       atomic.Bool // onFull runs

	raise chan struct{} // has one element during a raise
}

// reserveOf returns the size of the reserve beyond a limit.
func reserveOf(limit int64) int64 { return min(max(limit/8, 4<<20), 1<<30) }

// noLimit is the server's own limit where the account has the limits.
const noLimit = math.MaxInt64 / 4

// takeLimits moves the limits from opts to the returned room, which limit applies when the
// server runs. It returns nil if the server shares its limits with other servers or accounts.
func takeLimits(opts *server.Options) *room {
	if !isSingle(opts) || len(opts.Accounts) > 0 || opts.JetStreamMaxMemory <= 0 || opts.JetStreamMaxStore <= 0 {
		return nil
	}
	r := &room{memory: opts.JetStreamMaxMemory, store: opts.JetStreamMaxStore, raise: make(chan struct{}, 1)}
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

// set changes the account's limits.
func (r *room) set(memory, store int64) error {
	err := r.server.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {
		MaxMemory: memory, MaxStore: store, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1,
		MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1,
	}})
	if err != nil {
		return fmt.Errorf("the server does not take the limits of memory and disk: %w", err)
	}
	return nil
}

// InReserve calls fn, which stores one message of size bytes or declares a stream, while the
// limits are that much higher: within the reserve. It returns the error of fn. Safe for
// concurrent use.
func (s *Server) InReserve(size int, fn func() error) error {
	r := s.room
	if r == nil {
		return fn()
	}
	r.raise <- struct{}{}
	defer func() { <-r.raise }()
	usage := s.server.GlobalAccount().JetStreamUsage()
	need := int64(size) + maxRecord
	memory := min(max(int64(usage.Memory), r.memory)+need, r.memory+reserveOf(r.memory))
	store := min(max(int64(usage.Store), r.store)+need, r.store+reserveOf(r.store))
	if err := r.set(memory, store); err != nil {
		return err
	}
	defer func() { _ = r.set(r.memory, r.store) }() // lower limits are never refused
	return fn()
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
