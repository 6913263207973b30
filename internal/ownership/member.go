package ownership

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// Config describes how one process takes part in a durable that has an order.
type Config struct {
	Link  *link.Link
	Names Names
	ID    string        // of this member, another one each time; a token of a subject
	TTL   time.Duration // see TTLOf
	Hands int           // messages handled here at once
	Wait  time.Duration // for the answer to one request

	Run    func(wire.Delivery) settle.Outcome // one handler call; it must not panic. It may end its goroutine
	Exited func(wire.Delivery) settle.Outcome // the outcome of a call that did
	Cause  func(error) string                 // the kind of a failure, for Failure
	Open   func(*Lead) (Intake, error)        // takes part as the owner

	Refused func(*wire.Delivery) // an outcome does not count: another process handles the message, too
	Lost    func(error)          // this process is not the owner any more, and did not want that
	Trouble func(error)          // whatever else no call can return
}

// TTLOf is after which time without a sign of life the owner and the members of a
// durable with that AckWait are taken for dead. It is well below AckWait, so that
// all have met the next owner before what the last one held comes again.
func TTLOf(ackWait time.Duration) time.Duration { return min(ackWait/3, 10*time.Second) }

// Intake is what an owner takes messages in by.
type Intake interface {
	Start()
	Drain(ctx context.Context) error
	Abandon()                      // ends at once, settles nothing any more
	Confirm(context.Context) error // see NewFence
	RunsCaller(context.Context) bool
	Wait(context.Context) error // until no handler runs, after Abandon
}

// Member is a process's part in a durable that has an order. Safe for concurrent use.
//
// States: following → owning → following …, and from both → leaving → gone. Its
// goroutine, run, decides; nothing else changes the state. Drain ends and waits
// for it. Handlers run on the workers of the hands, and of the intake.
type Member struct {
	cfg   Config
	store *Store
	hands *hands
	subs  []*nats.Subscription

	// Only run uses these.
	seen   uint64    // the epoch it knows of
	holder Holder    // and whose that is
	silent time.Time // since when the owner has not answered while the server did

	mu      sync.Mutex
	lead    *Lead    // while it is the owner
	past    []Intake // abandoned, their handlers may still run
	trouble error    // why nobody can say who the owner is
	leaving bool

	started atomic.Bool

	wake  chan struct{}
	ctx   context.Context // of run and what it asks
	stop  context.CancelFunc
	ended chan struct{}
}

// NewMember subscribes to what others tell this one. Nothing happens before Start.
func NewMember(c Config) (*Member, error) {
	m := &Member{cfg: c, store: NewStore(c.Link, c.Names), wake: make(chan struct{}, 1), ended: make(chan struct{})}
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.hands = newHands(m)
	for subject, take := range map[string]nats.MsgHandler{
		m.store.run(c.ID): m.hands.take,
		m.store.news():    func(*nats.Msg) { m.nudge() },
	} {
		s, err := c.Link.Conn().Subscribe(subject, take)
		if err != nil {
			m.unsubscribe()
			return nil, err
		}
		m.subs = append(m.subs, s)
	}
	return m, nil
}

// Start begins to follow, or to own.
func (m *Member) Start() {
	m.started.Store(true)
	go m.run()
}

func (m *Member) unsubscribe() {
	for _, s := range m.subs {
		_ = s.Unsubscribe() // its connection may be gone
	}
}

// every is how often a member shows signs of life, and an owner looks at its claim.
func (m *Member) every() time.Duration { return m.cfg.TTL / 4 }

// bound bounds one request.
func (m *Member) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, min(m.cfg.Wait, m.cfg.TTL))
}

func (m *Member) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *Member) run() {
	defer close(m.ended)
	for m.ctx.Err() == nil {
		next := m.every()
		if lead := m.owning(); lead != nil {
			m.hold(lead)
		} else if m.follow() {
			continue
		}
		select {
		case <-time.After(next):
		case <-m.wake:
		case <-m.ctx.Done():
		}
	}
}

func (m *Member) owning() *Lead {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lead
}

// follow makes one beat, or looks who is the owner, or becomes it. It returns true
// if there is something to do at once.
func (m *Member) follow() (at bool) {
	ctx, cancel := context.WithTimeout(m.ctx, m.every())
	defer cancel()
	began := time.Now() // before it is sent: the answer may come late
	known := m.seen > 0 && !m.holder.Free
	if known && m.beat(ctx, began) {
		m.silent = time.Time{}
		return false
	}
	h, epoch, err := m.look()
	switch {
	case err != nil: // then nothing is known about the owner either
		m.silent = time.Time{}
		return false
	case epoch != m.seen || h != m.holder:
		m.seen, m.holder, m.silent = epoch, h, time.Time{}
		return true
	case known && h.Member == m.cfg.ID: // the answer to its own claim was lost
		return m.own(epoch, began)
	case known && m.silent.IsZero():
		m.silent = began
		return false
	case known && time.Since(m.silent) < max(m.cfg.TTL, m.holder.TTL):
		return false
	}
	return m.take()
}

// beat returns whether the owner answered.
func (m *Member) beat(ctx context.Context, began time.Time) bool {
	b := &beat{Member: m.cfg.ID, TTL: m.cfg.TTL, Hands: m.handsFree(), Running: m.hands.tasks()}
	if _, err := m.ask(ctx, m.seen, request{Beat: b}); err != nil {
		return false
	}
	m.hands.follow(m.seen, began.Add(m.cfg.TTL*3/4))
	return true
}

// handsFree is how many hands the owner may count on.
func (m *Member) handsFree() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leaving {
		return 0
	}
	return m.cfg.Hands
}

func (m *Member) look() (Holder, uint64, error) {
	ctx, cancel := m.bound(m.ctx)
	defer cancel()
	h, epoch, err := m.store.Look(ctx)
	m.noteTrouble(err)
	return h, epoch, err
}

// noteTrouble tells, once, that the claim cannot be read, other than because the
// server cannot be reached: others tell that.
func (m *Member) noteTrouble(err error) {
	if errors.Is(err, context.DeadlineExceeded) || err != nil && (m.ctx.Err() != nil || !m.cfg.Link.Conn().IsConnected()) {
		return
	}
	m.mu.Lock()
	tell := err != nil && m.trouble == nil
	m.trouble = err
	m.mu.Unlock()
	if tell {
		m.cfg.Trouble(err)
	}
}

// Stalled is why nobody can say who the owner is, or nil.
func (m *Member) Stalled() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trouble
}

// take makes this process the owner, unless somebody is faster.
func (m *Member) take() (at bool) {
	m.mu.Lock()
	leaving := m.leaving
	m.mu.Unlock()
	if leaving {
		return false
	}
	ctx, cancel := m.bound(m.ctx)
	defer cancel()
	began := time.Now()
	self := Holder{Member: m.cfg.ID, TTL: m.cfg.TTL}
	epoch, err := m.store.Take(ctx, self, m.seen)
	if err != nil {
		return errors.Is(err, ErrLost)
	}
	m.seen, m.holder, m.silent = epoch, self, time.Time{}
	return m.own(epoch, began)
}

// own begins to take messages in, as the owner of an epoch, which it was at a time.
func (m *Member) own(epoch uint64, at time.Time) (again bool) {
	m.hands.follow(epoch, time.Time{}) // nothing that others give
	ctx, cancel := m.bound(m.ctx)
	defer cancel()
	before, err := m.store.Settled(ctx)
	if err != nil {
		return false // it is tried again, since the claim is ours
	}
	lead, err := m.newLead(epoch, before, at.Add(m.cfg.TTL/2))
	if err != nil {
		m.cfg.Trouble(err)
		return false
	}
	m.mu.Lock()
	leaving := m.leaving
	if !leaving {
		m.lead = lead
	}
	m.mu.Unlock()
	if leaving { // it has not begun
		_ = lead.intake.Drain(ctx)
		m.free(ctx, lead)
		return false
	}
	lead.intake.Start()
	close(lead.began)
	m.tellNews()
	return false
}

// free ends being the owner, for whoever takes the claim next.
func (m *Member) free(ctx context.Context, lead *Lead) {
	lead.end()
	_ = m.store.Free(ctx, m.cfg.ID, lead.epoch) // else it is taken after a while
	m.tellNews()
}

// hold makes sure that this process is still the owner.
func (m *Member) hold(lead *Lead) {
	began := time.Now()
	h, epoch, err := m.look()
	switch {
	case err != nil: // it gives out no more once it cannot be sure
		return
	case epoch == lead.epoch && h.Member == m.cfg.ID: // a stream that was made anew repeats its epochs
		lead.crew.renew(time.Now(), began.Add(m.cfg.TTL/2))
		return
	}
	m.seen, m.holder = epoch, h
	m.mu.Lock()
	m.lead = nil
	m.past = append(m.past, lead.intake)
	m.mu.Unlock()
	lead.abandon()
	m.cfg.Lost(ErrLost)
	m.nudge()
}

func (m *Member) tellNews() {
	_ = m.cfg.Link.Publish(&wire.Out{Subject: m.store.news()}) // without it they look after a while
}

// dealAgain has an owner look for what it can give out.
func (m *Member) dealAgain() {
	if lead := m.owning(); lead != nil {
		lead.crew.deal()
	}
}

// ask asks the owner of an epoch.
func (m *Member) ask(ctx context.Context, epoch uint64, r request) (answer, error) {
	var a answer
	reply, err := m.cfg.Link.Request(ctx, &wire.Out{Subject: m.store.lead(epoch), Data: encode(r)})
	if err == nil {
		err = json.Unmarshal(reply.Data, &a)
	}
	return a, err
}

var errNoRequest = errors.New("not a request that a member makes")

// tell tells the owner how a task ended, until it answers, or is the owner no more, or
// must have given this member up. It returns whether the outcome counts.
func (m *Member) tell(t Task, r report) (counts bool) {
	for {
		epoch := max(m.hands.owner(), t.Epoch) // it may know the member before that knows it
		ctx, cancel := patience(m.ctx, m.every())
		a, err := m.ask(ctx, epoch, request{Result: &result{Member: m.cfg.ID, Task: t, Outcome: r}})
		cancel()
		switch {
		case err == nil:
			return a.OK
		case errors.Is(err, nats.ErrMaxPayload) && r.Failed && r.Error != textTooLong: // it never passes
			r.Error = textTooLong
			continue
		case errors.Is(err, nats.ErrMaxPayload), m.ctx.Err() != nil, m.hands.givenUp(), epoch != t.Epoch: // an owner hears of it by its next beats, at the latest
			return false
		}
		select {
		case <-time.After(m.every() / 4):
		case <-m.ctx.Done():
		}
	}
}
