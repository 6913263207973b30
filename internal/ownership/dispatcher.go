package ownership

import (
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// dispatcher assigns the owner's messages to the free workers of all members. One of
// those members is the owner's process itself, and comes first.
//
// It assigns nothing while another process may have become the owner, and nothing of a
// key that runs somewhere for another owner. It has no goroutine: the intake's goroutines
// call run and wait there; nats.go's callbacks and Member.run change the state. mu guards
// the state.
type dispatcher struct {
	cfg      *Config
	subjects subjects
	workers  *workers // of this process
	epoch    uint64
	decide   func(wire.Delivery, settle.Outcome) settle.Outcome // see Intake; set before open
	inbox    string                                             // the server replies there if nobody receives an assignment

	mu          sync.Mutex
	members     map[string]*memberState
	assignments map[uint64]*assignment // by number: those that other processes have
	lastNumber  uint64
	queue       []*waiter     // messages that wait for a free worker, in order
	ttl         time.Duration // of this process, as the members know it
	leaseEnd    time.Time     // until then no other process can be the owner
	halted      bool
	quiesced    bool          // nothing is assigned
	idle        chan struct{} // closed when a worker was released; nil while nobody waits for that
	subs        []*nats.Subscription
}

// waiter is a call of run or runBatch that waits for a free worker.
type waiter struct {
	keys   []string
	here   bool              // it needs a worker of this process
	worker chan *memberState // receives the member that has one; closed when none will come
}

func newDispatcher(cfg *Config, s subjects, w *workers, epoch uint64, leaseEnd time.Time) *dispatcher {
	d := &dispatcher{cfg: cfg, subjects: s, workers: w, epoch: epoch, leaseEnd: leaseEnd, inbox: cfg.Link.Conn().NewInbox(),
		members: make(map[string]*memberState), assignments: make(map[uint64]*assignment)}
	d.ttl = w.member.currentTTL()
	d.members[cfg.ID] = &memberState{id: cfg.ID, workers: cfg.Workers, heardAt: time.Now()}
	return d
}

// open subscribes to the requests of the members.
func (d *dispatcher) open() error {
	for subject, callback := range map[string]nats.MsgHandler{
		d.subjects.owner(d.epoch): d.onRequest,
		d.inbox + ".>":            d.onNoResponders,
	} {
		s, err := d.cfg.Link.Conn().Subscribe(subject, callback)
		if err != nil {
			return err
		}
		d.subs = append(d.subs, s)
	}
	return nil
}

func (d *dispatcher) close() { unsubscribe(d.subs) }

// run has a message handled by a free worker and returns its outcome. It returns the
// outcome Returned if the dispatcher is halted before the handler began, or if the
// handler was cut off.
func (d *dispatcher) run(msg wire.Delivery) settle.Outcome {
	key := keyHash(msg.Stored.Key)
	for {
		to := d.waitForWorker(&waiter{keys: []string{key}})
		if to == nil {
			return settle.Outcome{Returned: true}
		}
		if o := d.assign(to, key, msg); !o.Returned || o.Err != nil {
			return o
		}
	}
}

// waitForWorker returns a member with a free worker, which it reserves. It returns nil if
// the dispatcher is halted.
func (d *dispatcher) waitForWorker(w *waiter) *memberState {
	w.worker = make(chan *memberState, 1)
	d.mu.Lock()
	if d.halted {
		d.mu.Unlock()
		return nil
	}
	d.queue = append(d.queue, w)
	d.dispatchLocked()
	d.mu.Unlock()
	return <-w.worker
}

// assign has a message handled by the reserved worker of a member, and frees the worker.
func (d *dispatcher) assign(to *memberState, key string, msg wire.Delivery) settle.Outcome {
	ids, ok := d.number(key)
	id := ids[0]
	defer d.release(to)
	switch {
	case !ok: // the process was suspended since the worker was reserved, or stops
		return settle.Outcome{Returned: true}
	case to.id == d.cfg.ID:
		return d.workers.handleLocal(msg, id)
	}
	return d.send(to, id, msg)
}

func (d *dispatcher) release(to *memberState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	to.busy--
	if d.idle != nil {
		close(d.idle)
		d.idle = nil
	}
	d.dispatchLocked()
}

// dispatch gives free workers to the messages that wait.
func (d *dispatcher) dispatch() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dispatchLocked()
}

// dispatchLocked skips messages whose key runs for another owner; they stay in the queue.
func (d *dispatcher) dispatchLocked() {
	if !d.mayAssignLocked() || d.quiesced {
		return
	}
	for i := 0; i < len(d.queue); {
		to := d.freeMemberLocked()
		if to == nil {
			return
		}
		w := d.queue[i]
		if w.here && to.id != d.cfg.ID || slices.ContainsFunc(w.keys, d.runsForOtherLocked) {
			i++
			continue
		}
		to.busy++
		d.queue = slices.Delete(d.queue, i, i+1)
		w.worker <- to
	}
}

// mayAssignLocked reports whether this process is surely the owner and does not stop.
func (d *dispatcher) mayAssignLocked() bool {
	return !d.halted && !d.workers.member.isStopping() && time.Now().Before(d.leaseEnd)
}

// freeMemberLocked returns this process if it has a free worker, else the member with
// the most free workers, or nil.
func (d *dispatcher) freeMemberLocked() *memberState {
	best := d.members[d.cfg.ID]
	if best.free() > 0 {
		return best
	}
	for _, m := range d.members {
		if m.free() > best.free() {
			best = m
		}
	}
	if best.free() <= 0 {
		return nil
	}
	return best
}

// runsForOtherLocked reports whether a message with the key runs somewhere that this
// dispatcher did not assign, or does not count on any more.
func (d *dispatcher) runsForOtherLocked(key string) bool {
	if key == noKey {
		return false
	}
	for _, m := range d.members {
		for id := range m.foreign {
			if id.Key == key {
				return true
			}
		}
	}
	return d.workers.runsKeyOfOther(key, d.epoch)
}

// halt ends all calls of run that wait for a worker. With lost, it also ends those that
// wait for other processes.
func (d *dispatcher) halt(lost bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.halted = true
	for _, w := range d.queue {
		close(w.worker)
	}
	d.queue = nil
	for number := range d.assignments {
		if lost {
			d.endLocked(number, settle.Outcome{Returned: true})
		}
	}
}

// onRequest is nats.go's callback for a request of a member. It does not reply while
// another process may have become the owner: the member asks again.
func (d *dispatcher) onRequest(msg *nats.Msg) {
	r, odd, err := parseRequest(msg.Data)
	if r.Heartbeat != nil && err == nil {
		err = d.checkMember(r.Heartbeat)
	}
	if err != nil {
		d.workers.member.reportOdd("a message to the owner", err)
		return
	}
	if odd != nil && !d.knows(r.Heartbeat.Member) {
		d.workers.member.reportOdd("a heartbeat", odd)
	}
	a := reply{OK: true}
	if r.Outcome != nil {
		a = d.takeOutcome(r.Outcome)
	} else if a.TTL = d.takeHeartbeat(r.Heartbeat); a.TTL == 0 {
		return
	}
	_ = d.cfg.Link.Publish(&wire.Out{Subject: msg.Reply, Data: encode(a)}) // if it is lost, the member asks again
	d.dispatch()                                                           // after the reply: by then the member knows that it may begin
}
