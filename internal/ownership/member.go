package ownership

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// Member is one process's part in a durable with keys. See the package comment for its
// states. Safe for concurrent use.
//
// Its one goroutine, run, decides about the lease; nothing else changes the state. Drain
// ends it and waits for it. Handlers run on the workers, and on those of the intake.
type Member struct {
	cfg     Config
	store   *store
	workers *workers
	subs    []*nats.Subscription

	known   knownLease // only run uses it
	refused bool       // reportRefusal has reported something; likewise

	mu        sync.Mutex
	owner     *Owner    // nil unless this process is the owner
	abandoned []Intake  // of earlier times as the owner; their handlers may still run
	leaseErr  error     // why the lease cannot be read, or what is wrong with it
	openErr   error     // why this process, which has the lease, cannot be the owner
	oddAt     time.Time // when reportOdd has reported something
	draining  bool
	quiesced  bool

	transition sync.Mutex // taken before mu: the owner learns of quiesced in the order of its changes

	started atomic.Bool
	ttl     atomic.Int64 // see lowerTTL

	wake  wakeup          // of run
	ctx   context.Context // of run and of most of its requests
	stop  context.CancelFunc
	ended chan struct{} // closed when run has ended

	// acquiring is the context of the requests that acquire the lease. It ends later than
	// ctx: a member that leaves must know whether it has the lease.
	acquiring context.Context
	giveUp    context.CancelFunc
}

// NewMember subscribes to the messages for this member. Nothing happens before Start.
func NewMember(c Config) (*Member, error) {
	m := &Member{cfg: c, store: &store{subjects{c.Stream, c.Durable}, c.Link, c.WithReserve}, wake: newWakeup(), ended: make(chan struct{})}
	m.ttl.Store(int64(c.TTL))
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.acquiring, m.giveUp = context.WithCancel(context.Background())
	m.workers = newWorkers(m)
	for subject, callback := range map[string]nats.MsgHandler{
		m.store.assignments(c.ID): m.workers.onAssignment,
		m.store.leaseChanged():    func(*nats.Msg) { m.wake.signal() },
	} {
		s, err := c.Link.Conn().Subscribe(subject, callback)
		if err != nil {
			unsubscribe(m.subs)
			return nil, err
		}
		m.subs = append(m.subs, s)
	}
	return m, nil
}

// Start begins to follow the owner, or to be it.
func (m *Member) Start() {
	m.started.Store(true)
	go m.run()
}

func unsubscribe(subs []*nats.Subscription) {
	for _, s := range subs {
		_ = s.Unsubscribe() // the connection may be gone
	}
}

// withRequestTimeout bounds one request.
func (m *Member) withRequestTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, m.requestTimeout())
}

// run is the goroutine of m. Once per heartbeat interval, and when it is woken, it renews
// the lease or follows the owner.
func (m *Member) run() {
	defer close(m.ended)
	for m.ctx.Err() == nil {
		if owner := m.currentOwner(); owner != nil {
			m.renewLease(owner)
		} else if m.follow() {
			continue
		}
		select {
		case <-time.After(m.heartbeatInterval()):
		case <-m.wake:
		case <-m.ctx.Done():
		}
	}
}

// currentOwner returns nil unless this process is the owner.
func (m *Member) currentOwner() *Owner {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.owner
}

// takesPart reports whether m may begin messages and become the owner.
func (m *Member) takesPart() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.draining && !m.quiesced && !m.isStopping()
}

// isStopping reports whether no handler may begin here any more.
func (m *Member) isStopping() bool {
	select {
	case <-m.cfg.Stopping:
		return true
	default:
		return false
	}
}

// follow sends one heartbeat. If the owner does not reply, it reads the lease, and
// acquires it if the owner has been silent for a TTL. It returns true if m should look
// again at once. It runs on the goroutine of m.
func (m *Member) follow() (again bool) {
	ctx, cancel := context.WithTimeout(m.ctx, m.heartbeatInterval())
	defer cancel()
	asked := time.Now()
	held := m.known.held()
	if held && m.sendHeartbeat(ctx, asked) {
		m.known.silentSince = time.Time{}
		return false
	}
	l, epoch, err := m.readLease()
	switch {
	case err != nil: // the owner may be well: the server cannot be reached either
		m.known.silentSince = time.Time{}
		return false
	case epoch != m.known.epoch || l != m.known.lease:
		m.known = knownLease{lease: l, epoch: epoch}
		m.recordOpenError(nil) // it is another process's turn
		return true
	case held && l.Member == m.cfg.ID: // the reply to acquireLease was lost
		m.becomeOwner(epoch, asked)
		return false
	case held && m.known.silentSince.IsZero():
		m.known.silentSince = asked
		return false
	case held && time.Since(m.known.silentSince) < max(m.currentTTL(), m.known.silence()):
		return false
	}
	return m.acquireLease()
}

// sendHeartbeat returns whether the owner has replied.
func (m *Member) sendHeartbeat(ctx context.Context, asked time.Time) bool {
	h := &heartbeat{Member: m.cfg.ID, TTL: m.currentTTL(), Workers: m.workersToOffer(), Running: m.workers.assignments()}
	a, err := m.askOwner(ctx, m.known.epoch, request{Heartbeat: h})
	if err != nil {
		return false
	}
	if a.TTL > 0 { // else the owner has an older version
		m.known.told = min(max(a.TTL, minTTL), maxTTL)
		m.lowerTTL(m.known.told)
	}
	m.workers.follow(m.known.epoch, asked.Add(m.memberPeriod()))
	return true
}

// workersToOffer is how many messages the owner may assign to this member at once.
func (m *Member) workersToOffer() int {
	if !m.takesPart() {
		return 0
	}
	return m.cfg.Workers
}

// askOwner sends a request to the owner of an epoch.
func (m *Member) askOwner(ctx context.Context, epoch uint64, r request) (reply, error) {
	var a reply
	msg, err := m.cfg.Link.Request(ctx, &wire.Out{Subject: m.store.owner(epoch), Data: encode(r)})
	if err == nil {
		err = json.Unmarshal(msg.Data, &a)
	}
	return a, err
}

// reportOutcome reports to the owner how an assignment ended. It repeats that until the
// owner replies, or has changed, or must have taken this member for dead. It returns
// ErrLost if the outcome does not count, and ErrUnknown if it may: the owner may have taken
// an earlier report whose reply was lost. The worker of the assignment calls it.
func (m *Member) reportOutcome(id assignmentID, o outcome) (reply, error) {
	refused := ErrLost
	for m.ctx.Err() == nil {
		epoch := max(m.workers.ownerEpoch(), id.Epoch) // the owner may know this member before its reply arrives here
		a, err := m.sendOutcome(epoch, id, o)
		switch {
		case err == nil && a.OK:
			return a, nil
		case err == nil, errors.Is(err, nats.ErrMaxPayload):
			return reply{}, refused
		case epoch == id.Epoch && !errors.Is(err, nats.ErrNoResponders):
			refused = ErrUnknown
		}
		if m.workers.takenForDead() || epoch != id.Epoch { // the owner learns the end from the next heartbeats
			break
		}
		select {
		case <-time.After(m.heartbeatInterval() / 4):
		case <-m.ctx.Done():
		}
	}
	return reply{}, refused
}

// sendOutcome reports once how an assignment ended. It shortens what is too long.
func (m *Member) sendOutcome(epoch uint64, id assignmentID, o outcome) (reply, error) {
	ctx, cancel := withTolerantTimeout(m.ctx, m.heartbeatInterval())
	defer cancel()
	report := &outcomeReport{Member: m.cfg.ID, Assignment: id, Outcome: o}
	a, err := m.askOwner(ctx, epoch, request{Outcome: report})
	if errors.Is(err, nats.ErrMaxPayload) && o.Failed {
		report.Outcome.Error = textTooLong
		return m.askOwner(ctx, epoch, request{Outcome: report})
	}
	return a, err
}

// onWorkerFree has the owner, if it is this process, assign what waits.
func (m *Member) onWorkerFree() {
	if owner := m.currentOwner(); owner != nil {
		owner.dispatcher.dispatch()
	}
}

// refuse reports an outcome that does not count, or, if why is ErrUnknown, may not.
func (m *Member) refuse(d *wire.Delivery, why error) {
	if m.ctx.Err() != nil && !errors.Is(why, ErrUnknown) {
		why = ErrEnded
	}
	m.cfg.OutcomeRefused(d, why)
}

// Alone reports whether this process owns the durable and no other one takes part, as far as
// it knows.
func (m *Member) Alone() bool {
	owner := m.currentOwner()
	return owner != nil && owner.dispatcher.alone()
}
