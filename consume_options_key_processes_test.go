//go:build unix

package bus_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
)

const (
	keysOfTest  = 40
	slowHandler = 10 * time.Millisecond
)

// consumeByKey is a child: it takes part in the durable until it is told to end, and
// says what it handles when.
func consumeByKey(t *testing.T, url string) {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	b, err := bus.Connect(t.Context(), url, bus.WithEvents(func(e event.Event) {
		switch {
		case e.Kind == event.SettlementRefused && errors.Is(e.Err, bus.ErrUnknownOutcome):
			say("event %d settlement-unknown", e.Sequence)
		case e.Kind == event.SettlementRefused, e.Kind == event.OwnershipLost:
			say("event %d %s", e.Sequence, strings.ReplaceAll(string(e.Kind), " ", "-"))
		default:
			say("%v: %v", e.Kind, e.Err)
		}
	}))
	must(t, err)
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	_, err = bus.Consume(t.Context(), st, "c", bus.Subject[int]("s.*"), func(_ context.Context, m *bus.Msg[int]) error {
		call := callNumber.Add(1)
		say("begin %d %d %d", call, m.Sequence, time.Now().UnixNano())
		time.Sleep(slowHandler)
		say("end %d %d", call, time.Now().UnixNano())
		return nil
	}, bus.KeyByToken(2), bus.Concurrency(4), bus.AckWait(3*time.Second))
	must(t, err)
	say("ready")
	<-end
	must(t, b.Close())
	say("closed")
}

// handling is one handler call of a child.
type handling struct {
	by         string
	call       int64 // its number in the child
	sequence   uint64
	begin, end int64 // nanoseconds; end is 0 if it never did
	refused    bool  // surely; an outcome that is unknown may count
}

// keyTrace is what the children said.
type keyTrace struct {
	mu      sync.Mutex
	calls   []*handling
	begun   map[string]int                  // calls, by child
	latest  map[uint64]map[string]*handling // by sequence and child
	open    map[string]map[int64]*handling  // what has not ended, by child and number
	events  map[string]int                  // by child and kind
	said    map[string]int                  // other lines, by child and text
	changed chan struct{}
}

func newKeyTrace() *keyTrace {
	return &keyTrace{begun: make(map[string]int), latest: make(map[uint64]map[string]*handling), open: make(map[string]map[int64]*handling),
		events: make(map[string]int), said: make(map[string]int), changed: make(chan struct{}, 1)}
}

// begin notes a call under what it is looked for.
func (tr *keyTrace) begin(h *handling) {
	tr.calls = append(tr.calls, h)
	tr.begun[h.by]++
	if tr.latest[h.sequence] == nil {
		tr.latest[h.sequence] = make(map[string]*handling)
	}
	tr.latest[h.sequence][h.by] = h
	if tr.open[h.by] == nil {
		tr.open[h.by] = make(map[int64]*handling)
	}
	tr.open[h.by][h.call] = h
}

func (tr *keyTrace) note(by, line string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var seq uint64
	var call, at int64
	var kind string
	switch {
	case scanned(line, "begin %d %d %d", &call, &seq, &at):
		tr.begin(&handling{by: by, call: call, sequence: seq, begin: at})
	case scanned(line, "end %d %d", &call, &at):
		tr.open[by][call].end = at
		delete(tr.open[by], call)
	case scanned(line, "event %d %s", &seq, &kind):
		tr.events[by+" "+kind]++
		if kind == "settlement-refused" {
			tr.refuse(by, seq)
		}
	default:
		tr.said[by+" "+line]++
	}
	select {
	case tr.changed <- struct{}{}:
	default:
	}
}

// refuse notes that an outcome of a child does not count: that of its first call for the message
// that has ended. The child may have begun the message again before it says so.
func (tr *keyTrace) refuse(by string, seq uint64) {
	for _, h := range tr.calls {
		if h.by == by && h.sequence == seq && h.end > 0 && !h.refused {
			h.refused = true
			return
		}
	}
}

// await waits until cond holds.
func (tr *keyTrace) await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		tr.mu.Lock()
		ok := cond()
		tr.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-tr.changed:
		case <-deadline:
			t.Fatalf("never happened: %s; the children said %v, %v", what, tr.said, tr.events)
		}
	}
}

// count is how many calls a child has begun, and how many all have.
func (tr *keyTrace) count(by string) (own, all int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.begun[by], len(tr.calls)
}

// takenOver reports whether another child has begun what the one was at.
func (tr *keyTrace) takenOver(from string) bool {
	for _, h := range tr.open[from] {
		for _, o := range tr.latest[h.sequence] {
			if o.by != from && o.begin > h.begin {
				return true
			}
		}
	}
	return false
}

// stall stops c while it is at something, and returns after how long others had taken
// that over.
func (tr *keyTrace) stall(t *testing.T, c *child) time.Duration {
	t.Helper()
	for {
		before, _ := tr.count(c.name)
		tr.await(t, c.name+" has work", func() bool { return tr.begun[c.name] > before })
		c.signal(t, syscall.SIGSTOP)
		if took, was := tr.replaced(t, c); was {
			return took
		}
		c.signal(t, syscall.SIGCONT)
	}
}

// replaced waits until others have begun what c was at, which has just stopped, and
// returns after how long that was; or until they have gone on for long, where c was at
// nothing.
func (tr *keyTrace) replaced(t *testing.T, c *child) (took time.Duration, was bool) {
	t.Helper()
	stood := time.Now()
	_, before := tr.count(c.name)
	tr.await(t, "others go on without "+c.name, func() bool {
		was = tr.takenOver(c.name)
		return was || len(tr.open[c.name]) == 0 && len(tr.calls) > before+200
	})
	return time.Since(stood), was
}

type child struct {
	*program
	name string
	read chan struct{}
}

func startChild(t *testing.T, tr *keyTrace, name, url string) *child {
	t.Helper()
	c := &child{program: startVictim(t, url), name: name, read: make(chan struct{})}
	go func() {
		defer close(c.read)
		for c.lines.Scan() {
			tr.note(name, c.lines.Text())
		}
	}()
	tr.await(t, name+" is ready", func() bool { return tr.said[name+" ready"] > 0 })
	return c
}

func (c *child) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	must(t, syscall.Kill(c.cmd.Process.Pid, s))
}

// endBy waits for the child after a signal that ends it.
func (c *child) endBy(t *testing.T, s syscall.Signal) {
	t.Helper()
	c.signal(t, s)
	<-c.read
	if err := c.cmd.Wait(); (err == nil) != (s == syscall.SIGTERM) {
		t.Errorf("%s ended with %v\n%s", c.name, err, c.log.String())
	}
}

// Three processes work on a durable with keys: one joins, one is killed, one stands
// still and goes on. Nothing is lost, each key is settled in order, and only the one
// that stood still ever was at a key beside another.
func TestKeysAcrossProcesses(t *testing.T) {
	t.Parallel()
	for name, owner := range map[string]struct{ killed, stalled int }{
		"the owner stalls":         {killed: 1, stalled: 0},
		"the owner is killed":      {killed: 0, stalled: 1},
		"all but the owner suffer": {killed: 1, stalled: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if url := victimDir(t); url != "" {
				consumeByKey(t, url)
				return
			}
			threeProcesses(t, owner.killed, owner.stalled)
		})
	}
}

func threeProcesses(t *testing.T, killed, stalled int) {
	b, err := quietBus(bus.WithListen("127.0.0.1:0"))
	must(t, err)
	defer func() { must(t, b.Close()) }()
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	tr := newKeyTrace()
	stop := publishAhead(t, st, tr)
	a := startChild(t, tr, "a", b.ClientURL())
	tr.await(t, "a handles", func() bool { return tr.begun["a"] > 50 }) // so it is the owner
	cs := []*child{a, startChild(t, tr, "b", b.ClientURL())}
	tr.await(t, "b handles", func() bool { return tr.begun["b"] > 50 })
	cs = append(cs, startChild(t, tr, "c", b.ClientURL()))
	tr.await(t, "c handles", func() bool { return tr.begun["c"] > 50 })

	cs[killed].endBy(t, syscall.SIGKILL)
	if took, was := tr.replaced(t, cs[killed]); was {
		t.Logf("what the dead one had was taken over after %v", took)
	}
	took := tr.stall(t, cs[stalled])
	cs[stalled].signal(t, syscall.SIGCONT)
	t.Logf("what the stalled one had was taken over after %v", took)
	tr.await(t, "it hears that its outcomes do not count", func() bool {
		return tr.events[cs[stalled].name+" settlement-refused"]+tr.events[cs[stalled].name+" settlement-unknown"] > 0
	})
	before, _ := tr.count(cs[stalled].name)
	tr.await(t, "it takes part again", func() bool { return tr.begun[cs[stalled].name] > before+20 })

	last := stop()
	awaitAll(t, b, "S", "c")
	for i, c := range cs {
		if i != killed {
			c.endBy(t, syscall.SIGTERM)
		}
	}
	tr.judge(t, last, cs[stalled].name)
}

// publishAhead stores messages, always so many ahead of the handlers, until stop
// returns how many.
func publishAhead(t *testing.T, st *bus.Stream, tr *keyTrace) (stop func() uint64) {
	end, last := make(chan struct{}), make(chan uint64, 1)
	go func() {
		n := uint64(0)
		defer func() { last <- n }()
		for {
			tr.mu.Lock()
			far := int(n) > len(tr.calls)+150
			tr.mu.Unlock()
			if far {
				select {
				case <-end:
					return
				case <-tr.changed:
				case <-time.After(50 * time.Millisecond):
				}
				continue
			}
			if _, err := bus.PublishTo(context.Background(), st, bus.Subject[int]("s.*").At(fmt.Sprint(n%keysOfTest)), int(n)); err != nil {
				t.Error(err)
				return
			}
			n++
		}
	}()
	return func() uint64 {
		close(end)
		return <-last
	}
}

// judge checks what was promised of all messages from 1 to last.
func (tr *keyTrace) judge(t *testing.T, last uint64, stalled string) {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	settled := make(map[uint64]*handling)
	again, refused := 0, 0
	for _, h := range tr.calls {
		if h.refused {
			refused++
		}
		if h.end == 0 || h.refused {
			continue
		}
		if before := settled[h.sequence]; before != nil {
			again++
			if before.end > h.end {
				continue
			}
		}
		settled[h.sequence] = h
	}
	latest := make(map[uint64]*handling) // by key
	for seq := uint64(1); seq <= last; seq++ {
		h := settled[seq]
		if h == nil {
			t.Errorf("message %d was never settled: %s", seq, tr.callsOf(seq))
			continue
		}
		if before := latest[seq%keysOfTest]; before != nil && before.end > h.begin {
			t.Errorf("%s began %d before %s had ended %d", h.by, h.sequence, before.by, before.sequence)
		}
		latest[seq%keysOfTest] = h
	}
	overlaps := tr.overlaps()
	for _, o := range overlaps {
		if o[0].by == o[1].by || o[0].by != stalled && o[1].by != stalled {
			t.Errorf("%s was at %d while %s was at %d", o[0].by, o[0].sequence, o[1].by, o[1].sequence)
		}
	}
	t.Logf("%d messages, %d calls, %d again without a refusal, %d refused, %d overlaps, events %v",
		last, len(tr.calls), again, refused, len(overlaps), tr.events)
}

// callsOf says what happened to one message.
func (tr *keyTrace) callsOf(seq uint64) string {
	var b strings.Builder
	for _, h := range tr.calls {
		if h.sequence == seq {
			fmt.Fprintf(&b, "%s began at %d, ended after %v, refused: %t; ", h.by, h.begin, time.Duration(h.end-h.begin), h.refused)
		}
	}
	return b.String()
}

// overlaps are the calls with the same key at the same time.
func (tr *keyTrace) overlaps() (found [][2]*handling) {
	byKey := make(map[uint64][]*handling)
	for _, h := range tr.calls {
		if h.end > 0 {
			byKey[h.sequence%keysOfTest] = append(byKey[h.sequence%keysOfTest], h)
		}
	}
	for _, hs := range byKey {
		slices.SortFunc(hs, func(a, b *handling) int { return cmp.Compare(a.begin, b.begin) })
		longest := hs[0]
		for _, h := range hs[1:] {
			if h.begin < longest.end {
				found = append(found, [2]*handling{longest, h})
			}
			if h.end > longest.end {
				longest = h
			}
		}
	}
	return found
}
