package ownership

import (
	"fmt"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
)

// memberState is what the owner knows of a member. dispatcher.mu guards it.
type memberState struct {
	id      string
	workers int                   // how many messages it may have at once; 0 until its next heartbeat if it refused one
	busy    int                   // how many of those are reserved or assigned
	ttl     time.Duration         // the longer of its TTL and the owner's
	heardAt time.Time             // its last heartbeat
	foreign map[assignmentID]bool // what it runs that this owner did not assign, or does not count on any more
	taken   map[uint64]reply      // assignments whose outcome was taken, and what was replied, until its heartbeat names them no more
	dropped bool                  // it was silent for a TTL; it may still ask about an outcome
}

func (m *memberState) free() int { return m.workers - m.busy }

// forgetAfter is for how many TTLs the outcomes that were taken of a silent member are
// remembered.
const forgetAfter = 20

// renew extends the time until which this process is surely the owner. It drops the
// members that were silent for a TTL. Time in which the owner could not receive is not
// held against them. Member.renewLease calls it.
func (d *dispatcher) renew(now, leaseEnd time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	expired := !now.Before(d.leaseEnd)
	d.leaseEnd = leaseEnd
	for _, m := range d.members {
		switch silent := now.Sub(m.heardAt); {
		case expired || m.id == d.cfg.ID:
			m.heardAt = now
		case silent >= forgetAfter*m.ttl:
			delete(d.members, m.id)
		case silent >= m.ttl:
			d.dropLocked(m)
		}
	}
	d.dispatchLocked()
}

// dropLocked takes a member for dead. Its messages are assigned again.
func (d *dispatcher) dropLocked(m *memberState) {
	m.dropped, m.workers, m.foreign = true, 0, nil
	for number, a := range d.assignments {
		if a.member == m {
			d.endLocked(number, settle.Outcome{Returned: true})
		}
	}
}

// knows reports whether a member has sent a heartbeat.
func (d *dispatcher) knows(member string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.members[member] != nil
}

// errTooMany says that an owner takes no more members.
var errTooMany = fmt.Errorf("there are %d members already", maxMembers)

// checkMember returns an error if a heartbeat is from a member too many, or has the name of
// this one.
func (d *dispatcher) checkMember(h *heartbeat) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch known := d.members[h.Member]; {
	case h.Member == d.cfg.ID:
		return errNoRequest
	case known == nil && len(d.members) >= maxMembers:
		return errTooMany
	}
	return nil
}

// lowerTTL lowers the TTL that members know, with the end of the period in which this process
// is surely the owner. Member.renewLease calls it.
func (d *dispatcher) lowerTTL(ttl time.Duration, leaseEnd time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ttl < d.ttl {
		d.ttl = ttl
		if leaseEnd.Before(d.leaseEnd) {
			d.leaseEnd = leaseEnd
		}
	}
}

// takeHeartbeat returns the TTL of this process, or 0 while another one may have become the
// owner.
func (d *dispatcher) takeHeartbeat(h *heartbeat) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !time.Now().Before(d.leaseEnd) {
		return 0
	}
	m := d.members[h.Member]
	if h.Left {
		if m != nil {
			d.dropLocked(m)
			delete(d.members, m.id)
		}
		return d.ttl
	}
	if m == nil {
		m = &memberState{id: h.Member, taken: make(map[uint64]reply)}
		d.members[h.Member] = m
	}
	m.heardAt, m.workers, m.dropped, m.ttl = time.Now(), h.Workers, false, max(h.TTL, d.ttl)
	d.compareLocked(m, h.Running)
	return d.ttl
}

// compareLocked compares what a member runs with what it should run. It finds what runs
// for another owner, and what was lost on its way.
func (d *dispatcher) compareLocked(m *memberState, running []assignmentID) {
	named := make(map[uint64]bool)
	m.foreign = make(map[assignmentID]bool)
	for _, id := range running {
		a := d.assignments[id.Number]
		switch {
		case id.Epoch != d.epoch, !m.taken[id.Number].OK && (a == nil || a.member != m):
			m.foreign[id] = true
		default:
			named[id.Number] = true
		}
	}
	for number := range m.taken {
		if !named[number] {
			delete(m.taken, number)
		}
	}
	for number, a := range d.assignments {
		if a.member != m {
			continue
		}
		if a.missed++; named[number] {
			a.missed = 0
		}
		if a.lost() {
			d.endLocked(number, settle.Outcome{Returned: true})
		}
	}
}

// takeOutcome ends an assignment with the outcome that its member reports. The reply says
// whether that outcome counts. What becomes of the message is decided here, as the reply
// says that too.
func (d *dispatcher) takeOutcome(r *outcomeReport) reply {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, id := d.members[r.Member], r.Assignment
	if m != nil && m.foreign[id] {
		delete(m.foreign, id)
		return reply{}
	}
	if m == nil || id.Epoch != d.epoch {
		return reply{}
	}
	if before := m.taken[id.Number]; before.OK {
		return before // reported again, since the reply was lost
	}
	a := d.assignments[id.Number]
	if a == nil || a.member != m {
		return reply{}
	}
	if r.Outcome.Returned {
		m.workers = 0 // as in returnUnbegun
	}
	o := d.decide(a.msg, r.Outcome.decode())
	d.endLocked(id.Number, o)
	m.taken[id.Number] = reply{OK: true, Retrying: o.Decided != nil && o.Decided.Action == settle.Retry}
	return m.taken[id.Number]
}

// alone reports whether no other member is alive.
func (d *dispatcher) alone() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, m := range d.members {
		if id != d.cfg.ID && !m.dropped {
			return false
		}
	}
	return true
}
