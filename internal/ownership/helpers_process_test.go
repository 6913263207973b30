package ownership

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// process is a member with its own connection.
type process struct {
	*Member
	w    *world
	name string
	link *link.Link
	*suspension
	dead     chan struct{} // closed when it is killed
	stopping chan struct{} // closed when it begins nothing more
}

func (w *world) join(name string, workers int) *process { return w.joinWith(name, workers, ttl) }

func (w *world) joinWith(name string, workers int, ttl time.Duration) *process {
	p := &process{w: w, name: name, suspension: &suspension{}, dead: make(chan struct{}), stopping: make(chan struct{})}
	p.link = w.dial(p.wrap)
	m, err := NewMember(Config{Link: p.link, Stream: names.stream, Durable: names.durable, ID: name, TTL: ttl, Workers: workers, RequestTimeout: 5 * time.Second,
		Stopping: p.stopping, Run: p.handle,
		Cause: func(error) string { return "error" },
		Open: func(o *Owner) (Intake, error) {
			return &fakeIntake{p: p, owner: o, stop: make(chan struct{})}, nil
		},
		OutcomeRefused: func(_ *wire.Delivery, why error) { w.refuse(name, why) },
		Lost:           func(error) { w.count(w.lost, name) },
		Failed:         w.report,
		Odd:            func(err error) { w.report(err) },
		Accepts:        func(*wire.Delivery) error { return nil },
		DurableDeleted: func() bool { return false },
	})
	must(w.t, err)
	p.Member = m
	m.Start()
	return p
}

// twoProcesses joins two members while there is work for both. The first is the owner.
func (w *world) twoProcesses(workersOfA, workersOfB int) (a, b *process) {
	w.publish(10, 50)
	a = w.join("a", workersOfA)
	synctest.Wait()
	b = w.join("b", workersOfB)
	time.Sleep(time.Second)
	return a, b
}

// ownerOf returns the last of ps that is the owner, or nil.
func ownerOf(ps ...*process) (who *process) {
	for _, p := range ps {
		if p.Owns() {
			who = p
		}
	}
	return who
}

// handle is the handler.
func (p *process) handle(d wire.Delivery) settle.Outcome {
	w, key := p.w, d.Subject
	w.mu.Lock()
	w.handled[d.Stored.Sequence]++
	if who := w.running[key]; len(who) > 0 {
		w.overlaps = append(w.overlaps, fmt.Sprintf("%s runs %d of %s, which %v runs", p.name, d.Stored.Sequence, key, who))
	}
	w.running[key] = append(w.running[key], p.name)
	w.mu.Unlock()
	select {
	case <-time.After(handler):
	case <-p.dead:
	}
	w.mu.Lock()
	i := slices.Index(w.running[key], p.name)
	w.running[key] = slices.Delete(w.running[key], i, i+1)
	w.mu.Unlock()
	return settle.Outcome{Err: w.fails}
}

func (p *process) drain() {
	p.w.t.Helper()
	must(p.w.t, p.Drain(p.w.t.Context()))
	p.link.Close()
}

func (p *process) kill() {
	p.link.Close()
	close(p.dead)
	p.Member.kill()
}

// kill ends m as the death of its process would: it tells nobody and settles nothing. Its
// handlers go on.
func (m *Member) kill() {
	m.stop()
	<-m.ended
	if owner := m.currentOwner(); owner != nil {
		owner.abandon()
	}
	m.workers.refuseAll()
	m.workers.queue.Stop()
	unsubscribe(m.subs)
}

// fakeIntake is an intake of the world's messages. Like a real one, it waits until the
// server redelivers what an owner had that died.
type fakeIntake struct {
	p     *process
	owner *Owner
	stop  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

func (f *fakeIntake) Start() {
	w := f.p.w
	w.mu.Lock()
	barrier := time.Until(w.startsAt)
	w.startsAt = time.Now().Add(w.ackWait) // unless it drains
	w.mu.Unlock()
	for _, key := range w.keys() {
		f.wg.Go(func() {
			select {
			case <-time.After(barrier):
				f.lane(key)
			case <-f.stop:
			}
		})
	}
}

// lane handles the messages of a key in order.
func (f *fakeIntake) lane(key string) {
	after := uint64(0)
	for {
		select {
		case <-f.stop:
			return
		default:
		}
		d := f.p.w.next(key, after)
		if d == nil {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-f.stop:
			}
			continue
		}
		if !f.one(d) {
			return
		}
		after = d.Stored.Sequence
	}
}

func (f *fakeIntake) one(d *wire.Delivery) bool {
	if f.owner.SettledBefore(d) {
		f.ack(d)
		f.owner.SettlementSent(d)
		return true
	}
	o := f.owner.Run(*d)
	if o.Returned {
		return false
	}
	f.p.w.fail(o.Err)
	f.owner.Settle(d, func(ok bool) {
		if !ok {
			return // the owner reports it
		}
		f.p.w.settle(f.p.name, d)
		f.ack(d)
		f.owner.SettlementSent(d)
	})
	return true
}

// ack acknowledges a message at the server, unless the process is dead.
func (f *fakeIntake) ack(d *wire.Delivery) {
	select {
	case <-f.p.dead:
		return
	default:
	}
	f.p.w.mu.Lock()
	defer f.p.w.mu.Unlock()
	f.p.w.acked[d.Stored.Sequence] = true
}

func (f *fakeIntake) Confirm(ctx context.Context) error { return f.p.link.Flush(ctx, time.Second) }

func (f *fakeIntake) Drain(ctx context.Context) error {
	f.once.Do(func() { close(f.stop) })
	f.owner.Halt()
	f.wg.Wait()
	if err := f.owner.Flush(ctx); err != nil {
		return err
	}
	f.p.w.mu.Lock()
	defer f.p.w.mu.Unlock()
	f.p.w.startsAt = time.Time{}
	return nil
}

// Quiesce has nothing to do: its messages wait in the dispatcher.
func (f *fakeIntake) Quiesce(context.Context) error { return nil }

func (f *fakeIntake) Resume() {}

func (f *fakeIntake) Decide(_ wire.Delivery, o settle.Outcome) settle.Outcome { return o }

func (f *fakeIntake) Abandon() { f.once.Do(func() { close(f.stop) }) }

func (f *fakeIntake) Wait(context.Context) error {
	f.wg.Wait()
	return nil
}

func (f *fakeIntake) AckWait() time.Duration { return f.p.w.currentAckWait() }

func (f *fakeIntake) RunsCaller(context.Context) bool { return false }

// suspension suspends the connection of a process: what it sends waits, and so does what
// is sent to it. A Write must not block, since nats.go holds a lock then.
type suspension struct {
	mu      sync.Mutex
	resumed chan struct{} // nil while it is not suspended
	sends   bool          // what it sends does not wait
	conn    net.Conn
	unsent  []byte
}

func (s *suspension) suspend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resumed = make(chan struct{})
}

// deafen suspends only what is sent to the process.
func (s *suspension) deafen() {
	s.suspend()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sends = true
}

// forget drops what the suspended process has sent.
func (s *suspension) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsent = nil
}

func (s *suspension) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.conn.Write(s.unsent)
	close(s.resumed)
	s.resumed, s.unsent, s.sends = nil, nil, false
}

func (s *suspension) wrap(c net.Conn) net.Conn {
	s.conn = c
	return &suspendedConn{c, s}
}

// suspendedConn is the connection that a suspension suspends.
type suspendedConn struct {
	net.Conn
	suspension *suspension
}

func (c *suspendedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.suspension.mu.Lock()
	resumed := c.suspension.resumed
	c.suspension.mu.Unlock()
	if resumed != nil {
		<-resumed
	}
	return n, err
}

func (c *suspendedConn) Write(p []byte) (int, error) {
	c.suspension.mu.Lock()
	defer c.suspension.mu.Unlock()
	if c.suspension.resumed == nil || c.suspension.sends {
		return c.Conn.Write(p)
	}
	c.suspension.unsent = append(c.suspension.unsent, p...)
	return len(p), nil
}
