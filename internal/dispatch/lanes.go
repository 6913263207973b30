package dispatch

import (
	"cmp"
	"slices"
	"sort"
	"sync"

	"github.com/omnibus-go/bus/internal/wire"
)

// Lanes keeps messages of the same key in the order of their sequences. Of each
// key at most one message is out, from Enter, Open, Next or Again until the next
// call about that key; the others wait in its lane. Where messages run in batches, TakeMore
// lets out those behind it too, and PutBack takes back what is not done.
//
// Messages may come in any order: what comes late is sorted in, before those that
// wait. So order is kept among the messages that are here. The caller must know that nothing
// earlier is still elsewhere; until then it keeps the lanes closed.
//
// States: open ⇄ closed → stopped. A key that has no messages costs nothing. Safe for
// concurrent use.
type Lanes struct {
	mu      sync.Mutex
	closed  bool
	stopped bool
	lanes   map[string]*lane
	waiting []int // messages that wait, by their source
	bytes   int
	ready   int // messages that wait behind one that is out and has not begun
}

// lane is the messages of one key that wait, sorted by sequence.
type lane struct {
	out   bool // one of them is out
	begun bool // it has begun in a batch; more of the key were let out with it
	wait  []wire.Delivery
	head  int // of wait: those before are gone
}

// len is how many messages wait.
func (ln *lane) len() int { return len(ln.wait) - ln.head }

// NewLanes returns lanes without messages. Closed ones let nothing out before Open.
func NewLanes(closed bool) *Lanes {
	return &Lanes{closed: closed, lanes: make(map[string]*lane)}
}

// Enter adds d to the lane of its key. It returns true if d is out at once, as all
// are after Stop; otherwise d waits.
func (l *Lanes) Enter(d wire.Delivery) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return true
	}
	ln := l.lanes[d.Stored.Key]
	if ln == nil {
		ln = new(lane)
		l.lanes[d.Stored.Key] = ln
	}
	if !ln.out && !l.closed {
		l.set(ln, true, false) // and empty: a lane with messages has one out, unless it is closed
		return true
	}
	l.insert(ln, d)
	return false
}

// Open lets out the first message of each lane, and from now on each first one.
func (l *Lanes) Open() []wire.Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = false
	var first []wire.Delivery
	for _, ln := range l.lanes {
		if !ln.out && ln.len() > 0 {
			l.set(ln, true, false)
			first = append(first, l.pop(ln))
		}
	}
	slices.SortFunc(first, func(a, b wire.Delivery) int { return cmp.Compare(a.Stored.Sequence, b.Stored.Sequence) })
	return first
}

// Close lets nothing more out until Open. What is out stays out.
func (l *Lanes) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// Next ends the message of key that is out, and lets out the one after it.
func (l *Lanes) Next(key string) (d wire.Delivery, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.lanes[key]
	switch {
	case ln == nil:
	case ln.len() == 0:
		delete(l.lanes, key)
	case l.closed:
		l.set(ln, false, false)
	default:
		l.set(ln, true, false)
		return l.pop(ln), true
	}
	return wire.Delivery{}, false
}

// Again takes back d, which is out, and lets out the first of its lane: d itself,
// or an earlier one that has come meanwhile. Closed lanes keep d, and after Stop d is
// out.
func (l *Lanes) Again(d wire.Delivery) (first wire.Delivery, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.lanes[d.Stored.Key]
	switch {
	case l.stopped || ln == nil:
		return d, true
	case l.closed:
		l.set(ln, false, false)
		l.insert(ln, d)
		return wire.Delivery{}, false
	case ln.len() == 0 || d.Stored.Sequence < ln.wait[ln.head].Stored.Sequence:
		return d, true
	}
	first = l.pop(ln)
	l.insert(ln, d)
	return first, true
}

// Behind is how many messages of key wait.
func (l *Lanes) Behind(key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ln := l.lanes[key]; ln != nil {
		return ln.len()
	}
	return 0
}

// TakeMore lets out the first n messages at most that wait behind the one of key that is out,
// and removes and returns them, in order. Until Next, Again or PutBack they are out as well.
func (l *Lanes) TakeMore(key string, n int) (more []wire.Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.lanes[key]
	if ln == nil || l.closed || l.stopped {
		return nil
	}
	l.set(ln, true, true)
	for n = min(n, ln.len()); n > 0; n-- {
		more = append(more, l.pop(ln))
	}
	return more
}

// PutBack takes back messages of one key that TakeMore let out. They wait again behind the one
// that stays out. After Stop it does nothing and returns false.
func (l *Lanes) PutBack(ds []wire.Delivery) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	for i := range ds {
		if ln := l.lanes[ds[i].Stored.Key]; ln != nil {
			l.insert(ln, ds[i])
		}
	}
	return true
}

// Keys is how many keys have messages here: one that is out, or some that wait.
func (l *Lanes) Keys() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lanes)
}

// Ready is how many messages could be let out at once by TakeMore, behind those that are out
// and have not begun.
func (l *Lanes) Ready() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0
	}
	return l.ready
}

// set sets the state of a lane and counts what is ready.
func (l *Lanes) set(ln *lane, out, begun bool) {
	if ln.out && !ln.begun {
		l.ready -= ln.len()
	}
	ln.out, ln.begun = out, begun
	if out && !begun {
		l.ready += ln.len()
	}
}

// Stop removes and returns all messages that wait. No message waits from now on.
func (l *Lanes) Stop() []wire.Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	var all []wire.Delivery
	for _, ln := range l.lanes {
		all = append(all, l.empty(ln)...)
	}
	return all
}

// Backlog is the number of messages that wait, and their bytes.
func (l *Lanes) Backlog() (msgs, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.waiting {
		msgs += n
	}
	return msgs, l.bytes
}

// Waiting is how many messages of a source wait.
func (l *Lanes) Waiting(source int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if source < len(l.waiting) {
		return l.waiting[source]
	}
	return 0
}

// count counts a message that comes into a lane or leaves it.
func (l *Lanes) count(ln *lane, d *wire.Delivery, by int) {
	if ln.out && !ln.begun {
		l.ready += by
	}
	for d.Stored.Source >= len(l.waiting) {
		l.waiting = append(l.waiting, 0)
	}
	l.waiting[d.Stored.Source] += by
	l.bytes += by * d.Size()
}

func (l *Lanes) insert(ln *lane, d wire.Delivery) {
	l.count(ln, &d, 1)
	seq := d.Stored.Sequence
	waiting := ln.wait[ln.head:]
	if n := len(waiting); n == 0 || waiting[n-1].Stored.Sequence <= seq {
		ln.wait = append(ln.wait, d)
		return
	}
	at := sort.Search(len(waiting), func(i int) bool { return waiting[i].Stored.Sequence > seq })
	ln.wait = slices.Insert(ln.wait, ln.head+at, d)
}

// pop takes the first message out of ln, which must not be empty.
func (l *Lanes) pop(ln *lane) wire.Delivery {
	d := ln.wait[ln.head]
	ln.wait[ln.head] = wire.Delivery{} // let go of the payload
	ln.head++
	l.count(ln, &d, -1)
	switch {
	case ln.head == len(ln.wait):
		ln.wait, ln.head = nil, 0
	case ln.head > 32 && ln.head > len(ln.wait)/2:
		ln.wait, ln.head = slices.Clone(ln.wait[ln.head:]), 0
	}
	return d
}

func (l *Lanes) empty(ln *lane) []wire.Delivery {
	all := slices.Clone(ln.wait[ln.head:])
	for range all {
		l.pop(ln)
	}
	return all
}

// TakeTail removes and returns the last messages of key that wait, all except so many. They
// are in order.
func (l *Lanes) TakeTail(key string, keep int) []wire.Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.lanes[key]
	if ln == nil || ln.len() <= keep {
		return nil
	}
	if !ln.out { // the first one is the next to be out
		keep = max(keep, 1)
	}
	tail := slices.Clone(ln.wait[ln.head+keep:])
	for i := range tail {
		l.count(ln, &tail[i], -1)
	}
	ln.wait, ln.head = slices.Clone(ln.wait[ln.head:ln.head+keep]), 0
	return tail
}
