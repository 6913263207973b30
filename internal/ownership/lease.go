package ownership

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/wire"
)

// lease is the body of the stored message that says who owns the durable. The sequence of
// that message is the epoch of the owner.
type lease struct {
	Member   string        `json:"member"`
	Released bool          `json:"free,omitempty"` // the member has drained: anybody may acquire it now
	TTL      time.Duration `json:"ttl,omitempty"`  // of the member, nanoseconds; others may have a shorter one

	unreadable bool // the message is no lease
}

// knownLease is what a member has last read of the lease. Only Member.run uses it.
type knownLease struct {
	lease
	epoch       uint64        // 0: none
	told        time.Duration // the TTL of the owner, as it last replied; 0 if it has not
	silentSince time.Time     // since when the owner has not replied while the server did; zero while it replies
	uncertain   bool          // an acquireLease had no reply: the lease may be this member's
}

// silence is how long the owner may be silent.
func (k *knownLease) silence() time.Duration {
	if k.told > 0 {
		return k.told
	}
	return k.lease.silence()
}

// held reports whether some process has the lease, as far as known.
func (k *knownLease) held() bool { return k.epoch > 0 && !k.Released }

// TTLOf returns the TTL for a durable with that AckWait. An owner or a member that is
// silent for a TTL is taken for dead. The TTL is well below AckWait: all members have met
// the next owner before the server redelivers what the last one held.
func TTLOf(ackWait time.Duration) time.Duration { return min(ackWait/3, maxTTL) }

// The other periods are parts of the TTL. Each counts from the moment before the request
// was sent: a process that was suspended reads old replies first.

// heartbeatInterval is how often a member sends a heartbeat, and how often an owner
// renews its lease.
func (m *Member) heartbeatInterval() time.Duration { return m.currentTTL() / 4 }

// ownerPeriod is how long an owner may assign messages after it has read its lease.
func (m *Member) ownerPeriod() time.Duration { return m.currentTTL() / 2 }

// memberPeriod is how long a member may begin messages after a heartbeat that the owner
// has answered.
func (m *Member) memberPeriod() time.Duration { return m.currentTTL() * 3 / 4 }

// requestTimeout bounds one request to the server or to the owner.
func (m *Member) requestTimeout() time.Duration { return min(m.cfg.RequestTimeout, m.currentTTL()) }

// Somebody may lower the AckWait of the durable while members take part. The owner reads that
// and lowers its TTL; the others learn it from its replies. Each process waits less long from
// then on, before it tells the others that they may do so. A TTL never gets longer: the others
// would have to know that first.

// minTTL is the shortest TTL that counts of what an owner replies.
const minTTL = time.Second / 3

func (m *Member) currentTTL() time.Duration { return time.Duration(m.ttl.Load()) }

// lowerTTL lowers the TTL of m. Only the goroutine of m calls it.
func (m *Member) lowerTTL(to time.Duration) {
	if to = max(to, minTTL); to < m.currentTTL() {
		m.ttl.Store(int64(to))
	}
}

// renewLease reads the lease. If it is still the owner's, the owner may assign messages
// for another ownerPeriod. Else the owner is abandoned. If the lease cannot be read, the
// owner stops assigning when the period ends. It runs on the goroutine of m.
func (m *Member) renewLease(owner *Owner) {
	m.lowerTTL(TTLOf(owner.intake.AckWait()))
	owner.dispatcher.lowerTTL(m.currentTTL(), time.Now().Add(m.ownerPeriod()))
	asked := time.Now()
	l, epoch, err := m.readLease()
	switch {
	case err != nil:
		return
	case epoch == owner.epoch && l.Member == m.cfg.ID: // both: a stream that was made anew repeats its epochs
		owner.dispatcher.renew(time.Now(), asked.Add(m.ownerPeriod()))
		return
	}
	m.known.lease, m.known.epoch, m.known.told = l, epoch, 0
	m.mu.Lock()
	m.owner = nil
	m.abandoned = append(m.abandoned, owner.intake)
	m.mu.Unlock()
	owner.abandon()
	m.cfg.Lost(ErrLost)
	m.wake.signal()
}

// acquireLease makes this process the owner, unless another one is faster. It returns
// true if m should look again at once. It runs on the goroutine of m.
func (m *Member) acquireLease() (again bool) {
	if !m.takesPart() {
		return false
	}
	ctx, cancel := m.withRequestTimeout(m.acquiring)
	defer cancel()
	asked := time.Now()
	mine := lease{Member: m.cfg.ID, TTL: m.currentTTL()}
	epoch, err := m.store.acquireLease(ctx, mine, m.known.epoch)
	if err != nil {
		m.known.uncertain = !errors.Is(err, ErrLost)
		m.reportRefusal(err)
		return errors.Is(err, ErrLost)
	}
	m.refused = false
	m.known = knownLease{lease: mine, epoch: epoch}
	m.becomeOwner(epoch, asked)
	return false
}

// reportRefusal reports once that m may not write the lease, since no call returns that. It runs
// on the goroutine of m.
func (m *Member) reportRefusal(err error) {
	if _, refused := errors.AsType[*link.RefusedError](err); refused && !m.refused {
		m.refused = true
		m.cfg.Failed(err)
	}
}

// becomeOwner starts an owner for a lease that is this process's. The lease was acquired
// or read at a time after asked. If it fails, m tries again after a while, since the
// lease stays. If m has stopped, leave releases the lease. It runs on the goroutine of m.
func (m *Member) becomeOwner(epoch uint64, asked time.Time) {
	m.workers.follow(epoch, time.Time{}) // the workers begin nothing that another owner assigned
	ctx, cancel := m.withRequestTimeout(m.acquiring)
	defer cancel()
	if m.ctx.Err() != nil {
		return
	}
	last, err := m.readSettleRecord(ctx, epoch)
	if err != nil {
		m.recordLeaseError(err)
		return
	}
	owner, err := m.openOwner(epoch, last, asked.Add(m.ownerPeriod()))
	m.recordOpenError(err)
	if err != nil {
		m.cfg.Failed(err)
		return
	}
	if !m.setOwner(owner) {
		_ = owner.intake.Drain(ctx) // it has not started
		owner.close()
		m.releaseLease(ctx, epoch)
		return
	}
	owner.intake.Start()
	close(owner.started)
	m.announceLease()
}

// setOwner makes owner, which has not started, the one of m, quiesced if m is. It returns
// false if m is draining.
func (m *Member) setOwner(owner *Owner) bool {
	m.transition.Lock()
	defer m.transition.Unlock()
	m.mu.Lock()
	draining, quiesced := m.draining, m.quiesced
	if !draining {
		m.owner = owner
	}
	m.mu.Unlock()
	if quiesced && !draining {
		owner.quiesce()
	}
	return !draining
}

// releaseLease lets other members acquire the lease at once. Its owner is closed. If the
// server does not reply, they acquire it after a TTL. A durable that was deleted keeps no
// lease: each member acquires it, finds that out, and removes it again.
func (m *Member) releaseLease(ctx context.Context, epoch uint64) {
	if m.cfg.DurableDeleted() {
		_ = m.store.remove(ctx, epoch)
	} else {
		_ = m.store.releaseLease(ctx, m.cfg.ID, epoch)
	}
	m.announceLease()
}

// readLease reads the lease and reports the first of several errors. It runs on the
// goroutine of m.
func (m *Member) readLease() (lease, uint64, error) {
	ctx, cancel := m.withRequestTimeout(m.ctx)
	defer cancel()
	l, epoch, err := m.store.readLease(ctx)
	if problem := l.problem(); err == nil && problem != nil {
		m.recordOddLease(problem)
	} else {
		m.recordLeaseError(err)
	}
	return l, epoch, err
}

// readSettleRecord returns the latest settle record, for a new owner. It replaces one that
// cannot be read by an empty one: else nobody could ever be the owner. Then messages that the
// last owner has settled may be handled again, if the server does not know that yet.
func (m *Member) readSettleRecord(ctx context.Context, epoch uint64) (settleRecord, error) {
	last, err := m.store.readSettleRecord(ctx)
	bad, ok := errors.AsType[*badRecordError](err)
	if !ok {
		return last, err
	}
	sequence, err := m.store.writeSettleRecord(ctx, settleRecord{}, epoch)
	if err != nil {
		return last, errors.Join(bad, err)
	}
	m.reportOdd("the settle record "+m.store.settleRecord(), fmt.Errorf("%w; it was removed. Messages that it had may be handled again", bad))
	return settleRecord{sequence: sequence}, nil
}

// recordOddLease keeps what is wrong with the lease for Stalled, and reports it if there was
// nothing before.
func (m *Member) recordOddLease(problem error) {
	m.mu.Lock()
	first := m.leaseErr == nil
	m.leaseErr = fmt.Errorf("the lease %s was not written by this library, or is damaged: %w", m.store.lease(), problem)
	m.mu.Unlock()
	if first {
		m.reportOdd("the lease "+m.store.lease(), problem)
	}
}

// recordLeaseError keeps err for Stalled, and reports it if there was none before. Nil
// clears it. A server that cannot be reached is no error of the lease: the connection
// reports that.
func (m *Member) recordLeaseError(err error) {
	if errors.Is(err, context.DeadlineExceeded) || err != nil && (m.ctx.Err() != nil || !m.cfg.Link.Conn().IsConnected()) {
		return
	}
	m.mu.Lock()
	first := err != nil && m.leaseErr == nil
	m.leaseErr = err
	m.mu.Unlock()
	if first {
		m.cfg.Failed(err)
	}
}

// recordOpenError keeps for Stalled why this process cannot be the owner. Nil clears it.
func (m *Member) recordOpenError(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.openErr = err
}

// announceLease tells the other members that the lease has changed. If the message is
// lost, they find out at their next heartbeat.
func (m *Member) announceLease() {
	_ = m.cfg.Link.Publish(&wire.Out{Subject: m.store.leaseChanged()})
}
