package ownership

import (
	"context"
	"errors"
	"time"
)

// retryInterval is the pause before a record or a confirmation is tried again.
const retryInterval = 250 * time.Millisecond

// writeRecords is the goroutine of the fence. It writes records and waits for
// confirmations until close.
func (f *fence) writeRecords() {
	defer close(f.ended)
	defer f.decideDoubts()
	for {
		select {
		case <-f.wake:
		case <-f.stop:
			return
		}
		for f.beginRound() {
			err := f.round()
			f.endRound()
			if errors.Is(err, ErrLost) {
				f.lose()
				f.onLost()
			}
			if err != nil && !f.pause() {
				break
			}
		}
		f.decideDoubts()
	}
}

// pause returns false if the fence is lost.
func (f *fence) pause() bool {
	select {
	case <-time.After(retryInterval):
		return true
	case <-f.ctx.Done():
		return false
	}
}

// beginRound reports whether there is something to do.
func (f *fence) beginRound() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writing = !f.lost && (len(f.unrecorded) > 0 || f.unconfirmed > 0)
	return f.writing
}

func (f *fence) endRound() {
	f.mu.Lock()
	f.writing = false
	f.broadcastLocked()
	f.mu.Unlock()
}

// round writes one record if there is something new, has its messages acknowledged, and
// waits until the server has processed the acknowledgements sent so far.
func (f *fence) round() error {
	batch, r := f.nextRecord()
	if len(batch) > 0 {
		if err := f.writeRecord(r); err != nil {
			f.putBack(batch, !errors.Is(err, ErrLost))
			return err
		}
	}
	for _, e := range batch {
		e.then(nil)
	}
	ctx, cancel := context.WithTimeout(f.ctx, f.timeout)
	defer cancel()
	acknowledged := f.acknowledgedEntries()
	if len(acknowledged) == 0 {
		return nil
	}
	if err := f.confirm(ctx); err != nil {
		return err
	}
	f.forget(acknowledged)
	return nil
}

// writeRecord stores r. It waits for the reply even if the fence is lost meanwhile: r
// may have been stored before that, and then it counts.
func (f *fence) writeRecord(r settleRecord) error {
	ctx, cancel := withTolerantTimeout(context.Background(), f.timeout)
	defer cancel()
	sequence, err := f.store.writeSettleRecord(ctx, r, f.epoch)
	if err == nil {
		f.last = sequence
	}
	return err
}

// nextRecord returns the next record, and those of its entries that are new in it.
func (f *fence) nextRecord() ([]*fenceEntry, settleRecord) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.batchSizeLocked()
	batch := f.unrecorded[:n:n]
	f.unrecorded = f.unrecorded[n:]
	for _, e := range batch {
		e.recorded = true
	}
	r := settleRecord{Entries: make([]settledMessage, 0, len(f.entries))}
	for _, e := range f.entries {
		if e.recorded {
			r.Entries = append(r.Entries, e.settledMessage)
		}
	}
	return batch, r
}

// batchSizeLocked returns how many unrecorded entries fit beside the recorded ones: at
// least one, unless a confirmation will make space.
func (f *fence) batchSizeLocked() (n int) {
	space := f.capacity()
	for _, e := range f.entries {
		if e.recorded {
			space -= e.maxSize
		}
	}
	for _, e := range f.unrecorded {
		if !e.recorded {
			space -= e.maxSize
		}
		if space < 0 && (n > 0 || f.unconfirmed > 0) {
			break
		}
		n++
	}
	return n
}

// putBack takes back a batch whose record is not known to be stored. inDoubt says that it may
// be. After a loss the batch is refused, or decided later.
func (f *fence) putBack(batch []*fenceEntry, inDoubt bool) {
	f.mu.Lock()
	for _, e := range batch {
		e.inDoubt = e.inDoubt || inDoubt
	}
	f.unrecorded = append(batch, f.unrecorded...)
	lost := f.lost
	f.mu.Unlock()
	if lost {
		f.lose()
	}
}

// decideDoubts decides, once the fence is lost, what is in doubt. What is stored tells, unless
// a later owner has written a record without the message: it may have dropped it. If a later owner
// has settled the message itself, the outcome of this one does not count.
func (f *fence) decideDoubts() {
	inDoubt := f.takeDoubts()
	if len(inDoubt) == 0 {
		return
	}
	ctx, cancel := withTolerantTimeout(context.Background(), f.timeout)
	defer cancel()
	stored, epoch, err := f.store.readSettled(ctx)
	unchanged := epoch != f.epoch && stored.sequence == f.last // and the server refuses what it reads later
	for _, e := range inDoubt {
		by, settled := stored.settledBy(e.messageID)
		switch {
		case err == nil && settled && by == e.Epoch:
			e.then(nil)
		case err == nil && (unchanged || settled && by != 0):
			e.then(ErrLost)
		default:
			e.then(ErrUnknown)
		}
	}
}

// takeDoubts returns what is in doubt after a loss, once.
func (f *fence) takeDoubts() (inDoubt []*fenceEntry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost {
		inDoubt, f.unrecorded = f.unrecorded, nil
	}
	return inDoubt
}

func (f *fence) acknowledgedEntries() (all []*fenceEntry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.entries {
		if e.acknowledged {
			all = append(all, e)
		}
	}
	return all
}

// forget drops entries whose acknowledgements the server has confirmed.
func (f *fence) forget(confirmed []*fenceEntry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range confirmed {
		delete(f.entries, e.messageID)
		f.unconfirmed--
	}
}
