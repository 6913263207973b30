package ownership

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
)

// fence is what an owner settles through. Each message is in a settle record of the
// owner's epoch before it is acknowledged. The server stores a record only while the
// lease has that epoch, so an owner that was superseded settles nothing.
//
// If the reply to a record is lost, its messages are in doubt: they are settled if the server
// stored the record. The next record has them too. If the fence is lost before that, the
// fence reads what is stored.
//
// States: open → lost, or open → closed. Its one goroutine, writeRecords, writes the
// records; each holds all that was settled while the one before was written. close waits
// for it. Safe for concurrent use; mu guards the state.
type fence struct {
	store   *store
	epoch   uint64
	timeout time.Duration
	confirm func(ctx context.Context) error
	onLost  func()

	mu          sync.Mutex
	entries     map[messageID]*fenceEntry // all that belongs in the record
	unrecorded  []*fenceEntry             // those of entries that no record has yet, as far as known
	last        uint64                    // the sequence of the last record that is known to be stored; only writeRecords uses it
	unconfirmed int                       // how many of entries were acknowledged and not confirmed
	writing     bool                      // writeRecords is in a round
	lost        bool
	changed     chan struct{} // closed and replaced when writeRecords has finished a round

	wake  wakeup
	stop  chan struct{}   // closed to end writeRecords
	ended chan struct{}   // closed when writeRecords has ended
	ctx   context.Context // ends when the fence is lost
	end   context.CancelFunc
}

// fenceEntry is one settled message. Its states: unrecorded → recorded → acknowledged →
// confirmed; then the fence forgets it. fence.mu guards it.
type fenceEntry struct {
	settledMessage
	maxSize      int
	then         func(error) // called once a record has it, or cannot have it any more, or nobody can say
	recorded     bool        // a record has it, or may have it
	inDoubt      bool        // a record was sent that has it, and the reply was lost
	acknowledged bool        // its acknowledgement was sent
}

// newFence returns the fence of an epoch, with the entries of the last record. confirm
// waits until the server has processed the acknowledgements sent before the call. onLost
// is called when the server says that the epoch is over. timeout bounds each request.
func newFence(s *store, epoch uint64, last settleRecord, timeout time.Duration, confirm func(context.Context) error, onLost func()) *fence {
	f := &fence{store: s, epoch: epoch, timeout: timeout, confirm: confirm, onLost: onLost, last: last.sequence, entries: make(map[messageID]*fenceEntry),
		changed: make(chan struct{}), wake: newWakeup(), stop: make(chan struct{}), ended: make(chan struct{})}
	for _, m := range last.Entries {
		f.entries[m.messageID] = &fenceEntry{settledMessage: m, maxSize: m.maxSize(), recorded: true}
	}
	f.ctx, f.end = context.WithCancel(context.Background())
	go f.writeRecords()
	return f
}

// settled reports whether a message is settled, and with which dead-letter reason.
func (f *fence) settled(id messageID) (dead *settle.DeadReason, settled bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.entries[id]
	if e == nil {
		return nil, false
	}
	return e.Dead, true
}

// settle calls then, on another goroutine, once a record has the message; with ErrLost if
// this process is not the owner any more, and with ErrUnknown if nobody can say whether a
// record has it. then must not block. A message that is settled already is written once more.
func (f *fence) settle(id messageID, then func(error)) { f.add(settledMessage{messageID: id}, then) }

// recordDeadLetter is settle for a message whose dead letter is not written yet. It
// returns false, and does not call then, while the record has no space for the reason.
// The caller tries again after other dead letters were written.
func (f *fence) recordDeadLetter(id messageID, reason *settle.DeadReason, then func(error)) (fits bool) {
	return f.add(settledMessage{messageID: id, Dead: reason}, then)
}

// add puts m into the next record. It returns false if m does not fit.
func (f *fence) add(m settledMessage, then func(error)) (fits bool) {
	f.mu.Lock()
	e := f.entries[m.messageID]
	if e == nil {
		m.Epoch = f.epoch
		e = &fenceEntry{settledMessage: m, maxSize: m.maxSize()}
	}
	lost, fits := f.lost, f.fitsLocked(e)
	if !lost && fits {
		e.then = then
		f.entries[e.messageID] = e
		f.unrecorded = append(f.unrecorded, e)
	}
	f.mu.Unlock()
	switch {
	case lost:
		then(ErrLost)
	case fits:
		f.wake.signal()
	}
	return lost || fits
}

// fitsLocked reports whether e may be added. Dead-letter reasons get half of the record.
// A single one always fits, even if it is larger than that.
func (f *fence) fitsLocked(e *fenceEntry) bool {
	if e.Dead == nil || f.entries[e.messageID] != nil {
		return true
	}
	alone, size := true, e.maxSize
	for _, other := range f.entries {
		if other.Dead != nil {
			alone, size = false, size+other.maxSize
		}
	}
	return alone || size <= f.capacity()/2
}

func (f *fence) capacity() int { return capacityOf(f.store.link.MaxPayload()) }

// acknowledged says that the acknowledgement of a message was sent.
func (f *fence) acknowledged(id messageID) {
	f.mu.Lock()
	if e := f.entries[id]; e != nil && !e.acknowledged {
		e.acknowledged = true
		f.unconfirmed++
	}
	f.mu.Unlock()
	f.wake.signal()
}

// forgetMissing drops what earlier owners settled and was not redelivered: the server
// had its acknowledgement. The caller knows that no redelivery is on its way.
func (f *fence) forgetMissing(redelivered func(messageID) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.entries, func(id messageID, e *fenceEntry) bool {
		return e.then == nil && !e.acknowledged && !redelivered(id)
	})
}

// lose ends the fence because another process has the lease. What no record has is
// refused. The goroutine decides what is in doubt. lose may be called again.
func (f *fence) lose() {
	f.mu.Lock()
	var refused, inDoubt []*fenceEntry
	for _, e := range f.unrecorded {
		if e.inDoubt {
			inDoubt = append(inDoubt, e)
		} else {
			refused = append(refused, e)
		}
	}
	f.lost, f.unrecorded = true, inDoubt
	f.broadcastLocked()
	f.mu.Unlock()
	f.end()
	f.wake.signal()
	for _, e := range refused {
		e.then(ErrLost)
	}
}

// flush waits until all that was settled is recorded, acknowledged and confirmed. It
// returns ErrLost if the fence is lost first.
func (f *fence) flush(ctx context.Context) error {
	for {
		f.mu.Lock()
		done, lost, changed := len(f.unrecorded) == 0 && f.unconfirmed == 0 && !f.writing, f.lost, f.changed
		f.mu.Unlock()
		switch {
		case lost:
			return ErrLost
		case done:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// close is lose, and waits for the goroutine. It may be called once.
func (f *fence) close() {
	f.lose()
	close(f.stop)
	<-f.ended
}

// broadcastLocked wakes all calls of flush.
func (f *fence) broadcastLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}
