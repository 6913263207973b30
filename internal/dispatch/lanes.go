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
// call about that key; the others wait in its lane.
//
// Messages may come in any order: what comes late is sorted in, before those that
// wait. So order is kept among the messages that are here; that nothing earlier is
// still elsewhere the owner must know, and keeps the lanes shut until then.
//
// A key that has no messages costs nothing. Safe for concurrent use.
type Lanes struct {
	mu    sync.Mutex
	shut  bool
	lanes map[string]*lane
	n     int // messages that wait
	bytes int
}

// lane is the messages of one key that wait, sorted by sequence.
type lane struct {
	out  bool // one of them is out
	wait []wire.Delivery
	head int // of wait: those before are gone
}

// NewLanes returns lanes without messages. Shut ones let nothing out before Open.
func NewLanes(shut bool) *Lanes {
	return &Lanes{shut: shut, lanes: make(map[string]*lane)}
}

// Enter adds d to the lane of its key. It returns true if d is out at once;
// otherwise d waits.
func (l *Lanes) Enter(d wire.Delivery) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.lanes[d.Stored.Key]
	if ln == nil {
		ln = new(lane)
		l.lanes[d.Stored.Key] = ln
	}
	if !ln.out && !l.shut {
		ln.out = true // and empty: a lane with messages always has one out
		return true
	}
	l.insert(ln, d)
	return false
}

// Open lets out the first message of each lane, and from now on each first one.
func (l *Lanes) Open() []wire.Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut = false
	var first []wire.Delivery
	for _, ln := range l.lanes {
		if !ln.out && ln.head < len(ln.wait) {
			ln.out = true
			first = append(first, l.pop(ln))
		}
	}
	slices.SortFunc(first, func(a, b wire.Delivery) int { return cmp.Compare(a.Stored.Sequence, b.Stored.Sequence) })
	return first
}

// Next ends the message of key that is out, and lets out the one after it.
func (l *Lanes) Next(key string) (d wire.Delivery, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.lanes[key]
	if ln == nil || ln.head == len(ln.wait) {
		delete(l.lanes, key)
		return wire.Delivery{}, false
	}
	return l.pop(ln), true
}

// Again takes back d, which is out, and lets out the first of its lane: d itself,
// or an earlier one that has come meanwhile.
func (l *Lanes) Again(d wire.Delivery) wire.Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.lanes[d.Stored.Key]
	if ln == nil || ln.head == len(ln.wait) || d.Stored.Sequence < ln.wait[ln.head].Stored.Sequence {
		return d
	}
	first := l.pop(ln)
	l.insert(ln, d)
	return first
}

// Behind is how many messages of key wait.
func (l *Lanes) Behind(key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ln := l.lanes[key]; ln != nil {
		return len(ln.wait) - ln.head
	}
	return 0
}

// Take removes and returns the messages of key that wait, in order. The one that
// is out stays out.
func (l *Lanes) Take(key string) []wire.Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.lanes[key]
	if ln == nil {
		return nil
	}
	return l.empty(ln)
}

// Stop removes and returns all messages that wait.
func (l *Lanes) Stop() []wire.Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	return l.n, l.bytes
}

func (l *Lanes) insert(ln *lane, d wire.Delivery) {
	l.n++
	l.bytes += d.Size()
	seq := d.Stored.Sequence
	waiting := ln.wait[ln.head:]
	if n := len(waiting); n == 0 || waiting[n-1].Stored.Sequence < seq {
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
	l.n--
	l.bytes -= d.Size()
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
