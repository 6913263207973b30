package ownership

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// hands are what a process handles messages with: those that it is given by an owner
// elsewhere, on workers of its queue, and those that it gives itself. They know all
// that runs here, whoever gave it and whoever owns the durable by now.
type hands struct {
	m     *Member
	queue *dispatch.Queue // of what comes from elsewhere
	begun atomic.Int64
	ended atomic.Int64

	mu      sync.Mutex
	running map[Task]struct{}
	given   map[*wire.Stored]Task // what the queue has
	epoch   uint64                // of the owner that it works for
	until   time.Time             // when that one may believe that it is dead
	leaving bool
}

func newHands(m *Member) *hands {
	h := &hands{m: m, running: make(map[Task]struct{}), given: make(map[*wire.Stored]Task)}
	h.queue = dispatch.New(m.cfg.Hands, h.serve)
	return h
}

// take is nats.go's callback: a message to handle.
func (h *hands) take(msg *nats.Msg) {
	d, t, err := jobOf(msg)
	if err != nil {
		h.m.cfg.Trouble(err)
		return
	}
	h.mu.Lock()
	_, twice := h.running[t]
	h.running[t] = struct{}{}
	h.given[d.Stored] = t
	h.mu.Unlock()
	if twice || !h.queue.Push(d) {
		h.forget(d.Stored, t, !twice)
	}
}

// serve handles one message from elsewhere and tells the owner how it went.
func (h *hands) serve(d wire.Delivery) {
	h.mu.Lock()
	t := h.given[d.Stored]
	may := !h.leaving && t.Epoch == h.epoch && time.Now().Before(h.until)
	h.mu.Unlock()
	o, returned := settle.Outcome{Returned: true}, !may
	defer func() { h.answer(d, t, o, may) }()
	defer func() {
		if !returned { // the handler ends the goroutine
			o = h.m.cfg.Exited(d)
		}
	}()
	if may {
		o = h.call(d)
		returned = true
	}
}

// answer tells the owner how the task t went, which was to handle d, and whether it
// was begun.
func (h *hands) answer(d wire.Delivery, t Task, o settle.Outcome, may bool) {
	counts := h.m.tell(t, reportOf(o, h.m.cfg.Cause))
	h.forget(d.Stored, t, true)
	if !may {
		h.m.nudge() // the owner gives no more before a beat
	}
	if may && !counts {
		h.m.cfg.Refused(&d)
	}
}

// here handles d as a task that this process gave itself.
func (h *hands) here(d wire.Delivery, t Task) settle.Outcome {
	h.mu.Lock()
	h.running[t] = struct{}{}
	h.mu.Unlock()
	defer h.forget(nil, t, true)
	return h.call(d)
}

func (h *hands) call(d wire.Delivery) settle.Outcome {
	d.Number = h.begun.Add(1)
	defer h.ended.Add(1)
	return h.m.cfg.Run(d)
}

func (h *hands) forget(stored *wire.Stored, t Task, ended bool) {
	h.mu.Lock()
	delete(h.given, stored)
	if ended {
		delete(h.running, t)
	}
	h.mu.Unlock()
	h.m.dealAgain()
}

// follow has the hands work for the owner of an epoch, until a time.
func (h *hands) follow(epoch uint64, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch, h.until = epoch, until
}

// owner is the epoch of the owner that they work for.
func (h *hands) owner() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.epoch
}

// givenUp reports whether the owner, if there is one, must have taken this member for
// dead.
func (h *hands) givenUp() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.until) > h.m.cfg.TTL/4
}

// tasks are those that run.
func (h *hands) tasks() []Task {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]Task, 0, len(h.running))
	for t := range h.running {
		all = append(all, t)
	}
	return all
}

// busyWith reports whether a task of another epoch runs on a key here.
func (h *hands) busyWith(key string, epoch uint64) bool {
	return slices.ContainsFunc(h.tasks(), func(t Task) bool { return t.Key == key && t.Epoch != epoch })
}

// leave has the hands refuse whatever they have not begun.
func (h *hands) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaving = true
}

// rest waits until nothing from elsewhere runs, or ctx ends.
func (h *hands) rest(ctx context.Context) error { return h.queue.Wait(ctx) }
