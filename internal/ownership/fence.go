package ownership

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"
)

// Fence is what an owner settles through: each message is in a settle record of its
// epoch before the server is told. Safe for concurrent use.
//
// States: open → lost, or open → closed. Its one goroutine, commit, writes records,
// each with all that was settled during the one before; Close waits for it.
type Fence struct {
	store   *Store
	epoch   uint64
	timeout time.Duration
	confirm func(ctx context.Context) error
	tell    func() // that it is lost

	mu      sync.Mutex
	entries map[ID]*entry // all that belongs in the record
	noted   []*entry      // those of them that no record has yet
	sent    int           // those of them that wait for a confirmation
	busy    bool          // commit is at work
	lost    bool
	changed chan struct{} // closed and made anew when commit has done something

	wake  chan struct{}
	stop  chan struct{} // ends commit
	ended chan struct{}
	ctx   context.Context // ends when the fence is lost
	end   context.CancelFunc
}

// entry is one settled message on its way: noted → recorded → sent → confirmed, when
// it is forgotten.
type entry struct {
	Entry
	bytes   int           // at most, in a record
	then    func(ok bool) // called once it is recorded, or cannot be
	written bool          // a record has it, or may have
	sent    bool          // its acknowledgement is on its way
}

// NewFence returns the fence of an epoch, which begins with what the owners before
// have settled. confirm waits until the server has processed the acknowledgements
// that were sent before the call; lost is called when the server says that the epoch
// is over. timeout bounds each request.
func NewFence(s *Store, epoch uint64, before Record, timeout time.Duration, confirm func(context.Context) error, lost func()) *Fence {
	f := &Fence{store: s, epoch: epoch, timeout: timeout, confirm: confirm, tell: lost, entries: make(map[ID]*entry),
		changed: make(chan struct{}), wake: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{})}
	for _, e := range before.Entries {
		f.entries[e.ID] = &entry{Entry: e, bytes: mostBytes(e), written: true}
	}
	f.ctx, f.end = context.WithCancel(context.Background())
	go f.commit()
	return f
}

// Settled reports whether a message that comes is settled already, and how.
func (f *Fence) Settled(id ID) (dead *Verdict, settled bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.entries[id]
	if e == nil {
		return nil, false
	}
	return e.Dead, true
}

// Settle has then called, on another goroutine, once a record has the message; with
// false when this process is not the owner any more. then must not block. One that is
// settled already is as good as recorded.
func (f *Fence) Settle(id ID, then func(ok bool)) { f.note(Entry{ID: id}, then) }

// Condemn is Settle for a message whose dead letter is still to be written. It returns
// false, and calls nothing, while the records have no room for its verdict: it is to be
// called again once other letters were written.
func (f *Fence) Condemn(id ID, dead *Verdict, then func(ok bool)) (room bool) {
	return f.note(Entry{ID: id, Dead: dead}, then)
}

func (f *Fence) note(settled Entry, then func(ok bool)) (room bool) {
	f.mu.Lock()
	e := f.entries[settled.ID]
	if e == nil {
		e = &entry{Entry: settled, bytes: mostBytes(settled)}
	}
	lost, room := f.lost, f.hasRoomLocked(e)
	if !lost && room {
		e.then = then
		f.entries[e.ID] = e
		f.noted = append(f.noted, e)
	}
	f.mu.Unlock()
	switch {
	case lost:
		then(false)
	case room:
		f.nudge()
	}
	return lost || room
}

// Sent notes that the acknowledgement of a message is on its way.
func (f *Fence) Sent(id ID) {
	f.mu.Lock()
	if e := f.entries[id]; e != nil && !e.sent {
		e.sent = true
		f.sent++
	}
	f.mu.Unlock()
	f.nudge()
}

// Forget drops what the owners before have settled and what has not come again: it
// was acknowledged in time. The caller knows that nothing is on its way any more.
func (f *Fence) Forget(came func(ID) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.entries, func(id ID, e *entry) bool { return e.then == nil && !e.sent && !came(id) })
}

// Lose ends the fence because the claim is another's: what is not recorded is
// refused. It may be called again.
func (f *Fence) Lose() {
	f.mu.Lock()
	refused := f.noted
	f.lost, f.noted = true, nil
	f.tellLocked()
	f.mu.Unlock()
	f.end()
	for _, e := range refused {
		e.then(false)
	}
}

// Flush waits until all that was settled is recorded, sent and confirmed, or the
// fence is lost (ErrLost), or ctx ends.
func (f *Fence) Flush(ctx context.Context) error {
	for {
		f.mu.Lock()
		done, lost, changed := len(f.noted) == 0 && f.sent == 0 && !f.busy, f.lost, f.changed
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

// Close ends the fence. What is not recorded is refused.
func (f *Fence) Close() {
	f.Lose()
	close(f.stop)
	<-f.ended
}

func (f *Fence) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *Fence) tellLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// commit records, and has confirmed, what there is, until the fence ends.
func (f *Fence) commit() {
	defer close(f.ended)
	for {
		select {
		case <-f.wake:
		case <-f.stop:
			return
		}
		for f.begin() {
			err := f.round()
			f.finish()
			if errors.Is(err, ErrLost) {
				f.Lose()
				f.tell()
			}
			if err != nil && !f.pause() {
				break
			}
		}
	}
}

// again is after which time a record or a confirmation that failed is tried again.
const again = 250 * time.Millisecond

func (f *Fence) pause() bool {
	select {
	case <-time.After(again):
		return true
	case <-f.ctx.Done():
		return false
	}
}

func (f *Fence) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy = !f.lost && (len(f.noted) > 0 || f.sent > 0)
	return f.busy
}

func (f *Fence) finish() {
	f.mu.Lock()
	f.busy = false
	f.tellLocked()
	f.mu.Unlock()
}

// round writes one record if there is something new, lets its messages be
// acknowledged, and waits for the server to have seen that.
func (f *Fence) round() error {
	batch, r := f.batch()
	if len(batch) > 0 {
		if err := f.record(r); err != nil {
			f.putBack(batch)
			return err
		}
	}
	for _, e := range batch {
		e.then(true)
	}
	ctx, cancel := context.WithTimeout(f.ctx, f.timeout)
	defer cancel()
	sent := f.unconfirmed()
	if len(sent) == 0 {
		return nil
	}
	if err := f.confirm(ctx); err != nil {
		return err
	}
	f.forget(sent)
	return nil
}

// record stores r. It waits for the answer also when the fence is lost meanwhile: r may
// have been stored before that, and then it counts.
func (f *Fence) record(r Record) error {
	ctx, cancel := patience(context.Background(), f.timeout)
	defer cancel()
	return f.store.Settle(ctx, r, f.epoch)
}

// patience ends after a while, but not at once when the process goes on that stood
// still meanwhile: the answer that has come until then is heard first.
func patience(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	first := time.AfterFunc(d/2, func() {
		second := time.AfterFunc(d/2, cancel)
		context.AfterFunc(ctx, func() { second.Stop() })
	})
	return ctx, func() {
		first.Stop()
		cancel()
	}
}

// batch takes of what no record has as much as there is room for, and returns the record
// that has it.
func (f *Fence) batch() ([]*entry, Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.fitLocked()
	batch := f.noted[:n:n]
	f.noted = f.noted[n:]
	for _, e := range batch {
		e.written = true
	}
	r := Record{Entries: make([]Entry, 0, len(f.entries))}
	for _, e := range f.entries {
		if e.written {
			r.Entries = append(r.Entries, e.Entry)
		}
	}
	return batch, r
}

// fitLocked is how many of those noted fit into one message with all that has been
// recorded and must stay; at least one, unless a confirmation makes room.
func (f *Fence) fitLocked() (n int) {
	room := f.largest()
	for _, e := range f.entries {
		if e.written {
			room -= e.bytes
		}
	}
	for _, e := range f.noted {
		if !e.written {
			room -= e.bytes
		}
		if room < 0 && (n > 0 || f.sent > 0) {
			break
		}
		n++
	}
	return n
}

// putBack notes once more what could not be recorded; after a loss it is refused.
func (f *Fence) putBack(batch []*entry) {
	f.mu.Lock()
	f.noted = append(batch, f.noted...)
	lost := f.lost
	f.mu.Unlock()
	if lost {
		f.Lose()
	}
}

func (f *Fence) unconfirmed() []*entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	var sent []*entry
	for _, e := range f.entries {
		if e.sent {
			sent = append(sent, e)
		}
	}
	return sent
}

func (f *Fence) forget(confirmed []*entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range confirmed {
		delete(f.entries, e.ID)
		f.sent--
	}
}
