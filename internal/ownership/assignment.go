package ownership

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// assignment is a message that another process has. Its states: sent → ended, with the
// outcome. dispatcher.mu guards it.
type assignment struct {
	member  *memberState
	id      assignmentID
	msg     wire.Delivery
	sentAt  time.Time
	missed  int // heartbeats in a row that did not name it
	outcome chan settle.Outcome
}

// maxMissed is how many heartbeats may miss an assignment before it counts as lost, if a
// TTL has passed too. One heartbeat may have crossed it, and a busy member may send
// another before it reads the assignment.
const maxMissed = 2

// lost reports whether the message, or its outcome, was lost on its way.
func (a *assignment) lost() bool {
	return a.missed >= maxMissed && time.Since(a.sentAt) >= a.member.ttl
}

// send sends a message to another process and waits for the outcome.
func (d *dispatcher) send(to *memberState, id assignmentID, msg wire.Delivery) settle.Outcome {
	a := &assignment{member: to, id: id, msg: msg, sentAt: time.Now(), outcome: make(chan settle.Outcome, 1)}
	d.mu.Lock()
	if to.dropped || d.members[to.id] != to { // since it was chosen
		d.mu.Unlock()
		return settle.Outcome{Returned: true}
	}
	d.assignments[id.Number] = a
	d.mu.Unlock()
	out := encodeAssignment(&msg, d.subjects.assignments(to.id), d.inbox, id)
	if err := d.cfg.Link.Publish(&out); err != nil {
		d.returnUnbegun(id.Number)
	}
	return <-a.outcome
}

// returnUnbegun ends an assignment that nobody has begun. Its member gets no more before
// its next heartbeat: it may be gone, or may not know this owner.
func (d *dispatcher) returnUnbegun(number uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.assignments[number]; a != nil {
		a.member.workers = 0
		d.endLocked(number, settle.Outcome{Returned: true})
	}
}

// endLocked ends an assignment, if there is one with this number.
func (d *dispatcher) endLocked(number uint64, o settle.Outcome) {
	if a := d.assignments[number]; a != nil {
		delete(d.assignments, number)
		a.outcome <- o
	}
}

// onNoResponders is nats.go's callback for the server's reply that nobody received an
// assignment.
func (d *dispatcher) onNoResponders(msg *nats.Msg) {
	if id, _, ok := parseReplySubject(msg.Subject); ok && msg.Header.Get("Status") == "503" {
		d.returnUnbegun(id.Number)
	}
}
