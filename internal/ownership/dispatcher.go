package ownership

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// crew is what an owner knows of the members, and how it gives them messages. The
// first mate is the owner itself.
//
// It gives out nothing while the owner cannot be sure that it still is one, and
// nothing of a key that somebody is at whom another owner told so.
type crew struct {
	m     *Member
	epoch uint64
	inbox string // where the server tells that nobody takes a message

	mu     sync.Mutex
	mates  map[string]*mate
	jobs   map[uint64]*job
	next   uint64    // job
	line   []*waiter // messages that wait for a hand, in order
	sure   time.Time // until then nobody else can be owner
	halted bool
	subs   []*nats.Subscription
}

// mate is a member as its owner sees it.
type mate struct {
	name    string
	hands   int
	busy    int           // of those
	ttl     time.Duration // the longer of its and the owner's
	heard   time.Time
	foreign map[Task]bool   // what it runs that this owner did not give out, or does not count on any more
	done    map[uint64]bool // outcomes that were taken, until it knows that
	dropped bool            // it was silent for too long; it may ask once more about an outcome
}

// job is a message that another process has.
type job struct {
	mate   *mate
	task   Task
	sent   time.Time
	missed int // beats that did not name it
	done   chan settle.Outcome
}

type waiter struct {
	key  string
	hand chan *mate // gets one; closed when none will come
}

func newCrew(m *Member, epoch uint64, sure time.Time) *crew {
	c := &crew{m: m, epoch: epoch, sure: sure, inbox: m.cfg.Link.Conn().NewInbox(),
		mates: make(map[string]*mate), jobs: make(map[uint64]*job)}
	c.mates[m.cfg.ID] = &mate{name: m.cfg.ID, hands: m.cfg.Hands, heard: time.Now()}
	return c
}

// open begins to listen.
func (c *crew) open() error {
	for subject, take := range map[string]nats.MsgHandler{c.m.store.lead(c.epoch): c.heed, c.inbox + ".>": c.untaken} {
		s, err := c.m.cfg.Link.Conn().Subscribe(subject, take)
		if err != nil {
			return err
		}
		c.subs = append(c.subs, s)
	}
	return nil
}

func (c *crew) close() {
	for _, s := range c.subs {
		_ = s.Unsubscribe() // its connection may be gone
	}
}

// run has d handled by whoever has a hand free, this process first. It returns an
// outcome that was Returned when it could not be begun any more, or was cut off.
func (c *crew) run(d wire.Delivery) settle.Outcome {
	key := keyOf(d.Stored.Key)
	for {
		to := c.hand(key)
		if to == nil {
			return settle.Outcome{Returned: true}
		}
		if o := c.give(to, key, d); !o.Returned || o.Err != nil {
			return o
		}
	}
}

// hand waits for a free one; nil when there will be none.
func (c *crew) hand(key string) *mate {
	w := &waiter{key: key, hand: make(chan *mate, 1)}
	c.mu.Lock()
	if c.halted {
		c.mu.Unlock()
		return nil
	}
	c.line = append(c.line, w)
	c.dealLocked()
	c.mu.Unlock()
	return <-w.hand
}

// give has d handled by a hand of to, and frees it.
func (c *crew) give(to *mate, key string, d wire.Delivery) settle.Outcome {
	c.mu.Lock()
	c.next++
	t := Task{Epoch: c.epoch, Job: c.next, Key: key}
	sure := c.sureLocked()
	c.mu.Unlock()
	defer c.free(to)
	switch {
	case !sure: // it stood still since the hand was given
		return settle.Outcome{Returned: true}
	case to.name == c.m.cfg.ID:
		return c.m.hands.here(d, t)
	}
	return c.send(to, t, d)
}

// send gives d to another process and waits for the outcome.
func (c *crew) send(to *mate, t Task, d wire.Delivery) settle.Outcome {
	j := &job{mate: to, task: t, sent: time.Now(), done: make(chan settle.Outcome, 1)}
	c.mu.Lock()
	if to.dropped || c.mates[to.name] != to { // since it was chosen
		c.mu.Unlock()
		return settle.Outcome{Returned: true}
	}
	c.jobs[t.Job] = j
	c.mu.Unlock()
	out := jobOut(&d, c.m.store.run(to.name), c.inbox, t)
	if err := c.m.cfg.Link.Publish(&out); err != nil {
		c.bounced(t.Job)
	}
	return <-j.done
}

// bounced ends a job that nobody has begun. Its mate gets no more until it beats: it
// may not be there, or think that this owner is not one any more.
func (c *crew) bounced(number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if j := c.jobs[number]; j != nil {
		j.mate.hands = 0
		c.endLocked(number, settle.Outcome{Returned: true})
	}
}

// endLocked gives a job its outcome. It returns false if there is no such job any more.
func (c *crew) endLocked(number uint64, o settle.Outcome) bool {
	j := c.jobs[number]
	if j == nil {
		return false
	}
	delete(c.jobs, number)
	j.done <- o
	return true
}

func (c *crew) free(to *mate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to.busy--
	c.dealLocked()
}

// deal gives free hands to those that wait in line.
func (c *crew) deal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dealLocked()
}

func (c *crew) dealLocked() {
	if !c.sureLocked() {
		return
	}
	for i := 0; i < len(c.line); {
		to := c.freeHandLocked()
		if to == nil {
			return
		}
		w := c.line[i]
		if c.takenLocked(w.key) {
			i++
			continue
		}
		to.busy++
		c.line = slices.Delete(c.line, i, i+1)
		w.hand <- to
	}
}

func (c *crew) sureLocked() bool { return !c.halted && time.Now().Before(c.sure) }

// freeHandLocked is this process if it has a free hand, else the mate with the most.
func (c *crew) freeHandLocked() *mate {
	best := c.mates[c.m.cfg.ID]
	if best.busy < best.hands {
		return best
	}
	for _, m := range c.mates {
		if m.hands-m.busy > best.hands-best.busy {
			best = m
		}
	}
	if best.busy >= best.hands {
		return nil
	}
	return best
}

// takenLocked reports whether somebody is at a key without this owner's order.
func (c *crew) takenLocked(key string) bool {
	if key == noKey {
		return false
	}
	for _, m := range c.mates {
		for t := range m.foreign {
			if t.Key == key {
				return true
			}
		}
	}
	return c.m.hands.busyWith(key, c.epoch)
}

// renew notes that the owner is one until a time, and gives up the members that have
// been silent for too long; not for the time in which the owner could not hear them.
func (c *crew) renew(now, sure time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	deaf := !now.Before(c.sure)
	c.sure = sure
	for _, m := range c.mates {
		switch silent := now.Sub(m.heard); {
		case deaf || m.name == c.m.cfg.ID:
			m.heard = now
		case silent >= forgetAfter*m.ttl:
			delete(c.mates, m.name)
		case silent >= m.ttl:
			c.dropLocked(m)
		}
	}
	c.dealLocked()
}

// forgetAfter is how many times the TTL what was taken of a silent member is known.
const forgetAfter = 20

// dropLocked gives up a mate; what it had is given out again.
func (c *crew) dropLocked(m *mate) {
	m.dropped, m.hands, m.foreign = true, 0, nil
	for number, j := range c.jobs {
		if j.mate == m {
			c.endLocked(number, settle.Outcome{Returned: true})
		}
	}
}

// halt ends the waiting in line. With drop it does not wait for other processes
// either.
func (c *crew) halt(drop bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.halted = true
	for _, w := range c.line {
		close(w.hand)
	}
	c.line = nil
	for number := range c.jobs {
		if drop {
			c.endLocked(number, settle.Outcome{Returned: true})
		}
	}
}

// heed is nats.go's callback: a request of a member.
func (c *crew) heed(msg *nats.Msg) {
	var r request
	if err := json.Unmarshal(msg.Data, &r); err != nil || (r.Beat == nil) == (r.Result == nil) {
		c.m.cfg.Trouble(errNoRequest)
		return
	}
	a := answer{OK: true}
	heard := true
	if r.Beat != nil {
		heard = c.noteBeat(r.Beat)
	} else {
		a.OK = c.noteResult(r.Result)
	}
	if heard {
		_ = c.m.cfg.Link.Publish(&wire.Out{Subject: msg.Reply, Data: encode(a)}) // it asks again
		c.deal()                                                                 // after that, since now the member knows that it may
	}
}

// noteBeat returns false while this process may not be the owner any more.
func (c *crew) noteBeat(b *beat) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !time.Now().Before(c.sure) {
		return false
	}
	m := c.mates[b.Member]
	if b.Gone {
		if m != nil {
			c.dropLocked(m)
			delete(c.mates, m.name)
		}
		return true
	}
	if m == nil {
		m = &mate{name: b.Member, done: make(map[uint64]bool)}
		c.mates[b.Member] = m
	}
	m.heard, m.hands, m.dropped, m.ttl = time.Now(), b.Hands, false, max(b.TTL, c.m.cfg.TTL)
	c.compareLocked(m, b.Running)
	return true
}

// compareLocked looks for what m runs without order, and for what was lost on its way.
func (c *crew) compareLocked(m *mate, running []Task) {
	named := make(map[uint64]bool)
	m.foreign = make(map[Task]bool)
	for _, t := range running {
		j := c.jobs[t.Job]
		switch {
		case t.Epoch != c.epoch, !m.done[t.Job] && (j == nil || j.mate != m):
			m.foreign[t] = true
		default:
			named[t.Job] = true
		}
	}
	for number := range m.done {
		if !named[number] {
			delete(m.done, number)
		}
	}
	for number, j := range c.jobs {
		if j.mate != m {
			continue
		}
		if j.missed++; named[number] {
			j.missed = 0
		}
		if j.missed >= mostMissed && time.Since(j.sent) >= m.ttl {
			c.endLocked(number, settle.Outcome{Returned: true})
		}
	}
}

// mostMissed is how many beats may not name a job before it is lost, when a TTL has passed
// as well: one may have crossed it, and a busy member may beat again before it reads it.
const mostMissed = 2

// noteResult takes the outcome of a task. It returns whether that counts.
func (c *crew) noteResult(r *result) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.mates[r.Member]
	if m != nil && m.foreign[r.Task] {
		delete(m.foreign, r.Task)
		return false
	}
	if m == nil || r.Task.Epoch != c.epoch {
		return false
	}
	if m.done[r.Task.Job] {
		return true // asked again, as the answer was lost
	}
	if j := c.jobs[r.Task.Job]; j == nil || j.mate != m {
		return false
	}
	m.done[r.Task.Job] = true
	if r.Outcome.Returned {
		m.hands = 0 // see bounced
	}
	return c.endLocked(r.Task.Job, r.Outcome.outcome())
}

// untaken is nats.go's callback: nobody took a message. Its member is not there, or
// not yet again.
func (c *crew) untaken(msg *nats.Msg) {
	t, _, ok := taskOf(msg.Subject)
	if !ok || msg.Header.Get("Status") != "503" {
		return
	}
	c.bounced(t.Job)
}
