//go:build unix

package bus_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
)

// sharedDurables are those that several processes take part in.
var sharedDurables = []string{"keyed", "keyed-batches", "free"}

// ackWaitOfMembers makes the lease of an owner as short as that allows: a third of it.
const ackWaitOfMembers = 1500 * time.Millisecond

// takePartUntilKilled is the child: one more process of the durables, until it is told to end.
func takePartUntilKilled(t *testing.T, url string) {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	seed, err := strconv.ParseUint(os.Getenv(envSeed), 10, 64)
	must(t, err)
	var ticking sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	ticking.Go(func() { tickUntil(ctx) })
	b, err := bus.Connect(t.Context(), url, bus.WithLogger(silent()), bus.WithDrainTimeout(10*time.Second), bus.WithEvents(func(e event.Event) {
		if e.Kind == event.SettlementRefused && !errors.Is(e.Err, bus.ErrUnknownOutcome) {
			say("refused %s %d", e.Durable, e.Sequence)
		}
	}))
	must(t, err)
	st, err := b.LookupStream(t.Context(), "P")
	must(t, err)
	for _, name := range sharedDurables {
		tell(say).consume(t, st, seed, name, bus.AckWait(ackWaitOfMembers))
	}
	say("ready")
	<-end
	must(t, b.Close())
	stop()
	ticking.Wait()
}

// taker is a process that takes part.
type taker struct {
	*program
	*life
	ready atomic.Bool   // it has begun to take part
	read  chan struct{} // closed when all that it said is noted
}

// troop is the processes of a run, and what happened to them.
type troop struct {
	*chronicle
	t        *testing.T
	url      string
	chance   *rand.Rand
	takers   []*taker // that live
	begun    int
	changed  chan struct{}
	lives    []*life
	troubles []trouble
}

func (tr *troop) start() {
	tr.begun++
	k := &taker{life: newLife(tr.begun), read: make(chan struct{}),
		program: startVictim(tr.t, tr.url, envSeed+"="+strconv.FormatUint(tr.seed, 10))}
	tr.takers = append(tr.takers, k)
	tr.lives = append(tr.lives, k.life)
	go func() {
		defer close(k.read)
		for k.lines.Scan() {
			if tr.hear(k.life, k.lines.Text()) == "ready" {
				k.ready.Store(true)
			}
			select {
			case tr.changed <- struct{}{}:
			default:
			}
		}
	}()
}

// calls is how many handler calls there were.
func (tr *troop) calls() (n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, of := range tr.deeds {
		for _, all := range of {
			n += len(all)
		}
	}
	return n
}

// awaitCalls waits until there were so many more, or for a while.
func (tr *troop) awaitCalls(n int, longest time.Duration) {
	n += tr.calls()
	end := time.After(longest)
	for tr.calls() < n {
		select {
		case <-tr.changed:
		case <-end:
			return
		}
	}
}

// take removes one of those that live.
func (tr *troop) take() *taker {
	i := tr.chance.IntN(len(tr.takers))
	k := tr.takers[i]
	tr.takers = slices.Delete(tr.takers, i, i+1)
	return k
}

// kill kills a process.
func (tr *troop) kill() {
	k := tr.take()
	at := time.Now()
	must(tr.t, k.cmd.Process.Kill())
	<-k.read
	if k.cmd.Wait() == nil {
		tr.t.Errorf("process %d ended by itself\n%s", k.number, k.log.String())
	}
	k.died = at
	tr.troubles = append(tr.troubles, trouble{at, at})
}

// freeze has a process stand still for a while.
func (tr *troop) freeze() {
	k, from := tr.takers[tr.chance.IntN(len(tr.takers))], time.Now()
	must(tr.t, k.cmd.Process.Signal(syscall.SIGSTOP))
	tr.awaitCalls(500, time.Duration(tr.chance.IntN(3000))*time.Millisecond)
	must(tr.t, k.cmd.Process.Signal(syscall.SIGCONT))
	tr.mu.Lock()
	defer tr.mu.Unlock()
	k.stalled = true
	tr.troubles = append(tr.troubles, trouble{from, time.Now()})
}

// end has a process stop in order, once it takes part.
func (tr *troop) end() {
	k := tr.take()
	for !k.ready.Load() {
		receiveTick(tr.t)
	}
	must(tr.t, k.cmd.Process.Signal(syscall.SIGTERM))
	<-k.read
	if err := k.cmd.Wait(); err != nil {
		tr.t.Errorf("process %d: %v\n%s", k.number, err, k.log.String())
	}
}

// disturb does something to the processes. At least two live afterwards.
func (tr *troop) disturb() {
	switch tr.chance.IntN(10) {
	case 0, 1, 2, 3:
		tr.kill()
	case 4, 5, 6:
		tr.freeze()
	case 7, 8:
		tr.end()
	default:
		tr.start()
	}
	for len(tr.takers) < 2 || len(tr.takers) < 4 && tr.chance.IntN(3) == 0 {
		tr.start()
	}
}

// publishAll stores the messages of a run, never far ahead of the handlers.
func (tr *troop) publishAll(st *bus.Stream, n int) {
	for id := range n {
		for tr.calls() < (id-150)*len(sharedDurables) {
			receiveTick(tr.t)
		}
		ack, err := storePromise(context.Background(), st, tr.seed, id)
		if err != nil {
			tr.t.Error(err)
			return
		}
		tr.mu.Lock()
		tr.storedAt(id, ack.Sequence)
		tr.mu.Unlock()
	}
}

// stood reports whether the process stood still, or for a part of the TTL had no processor.
func (l *life) stood() bool { return l.stalled || len(l.stalls) > 0 }

// checkOverlaps checks that two messages of a key never ran at once in one process, and in two only
// if one stood still.
func (tr *troop) checkOverlaps(durable string) (overlaps int) {
	byKey := make(map[string][]*deed)
	for id, all := range tr.deeds[durable] {
		for _, d := range all {
			if d.result != "" {
				key := destinyOf(tr.seed, id).key
				byKey[key] = append(byKey[key], d)
			}
		}
	}
	for key, all := range byKey {
		slices.SortFunc(all, func(a, b *deed) int { return a.began.Compare(b.began) })
		longest := all[0]
		for _, d := range all[1:] {
			if d.began.Before(longest.ended) {
				overlaps++
				if d.by == longest.by || !d.by.stood() && !longest.by.stood() {
					tr.wrong("%s: key %s: process %d was at %d while process %d was at %d", durable, key, d.by.number, d.sequence, longest.by.number, longest.sequence)
				}
			}
			if d.ended.After(longest.ended) {
				longest = d
			}
		}
	}
	return overlaps
}

// checkExcuses checks that what was done twice was done about when a process was killed or stood
// still. The server keeps running, so a kill costs no acknowledgement that it has got.
func (tr *troop) checkExcuses(durable string) (again int) {
	for id, all := range tr.deeds[durable] {
		var before *deed
		for _, d := range all {
			if d.result != "done" {
				continue
			}
			if before != nil && (durable != "keyed-batches" || before.by != d.by) { // as in checkRepeats
				again++
				if !before.refused && !before.by.stood() && !d.by.stood() && !tr.excused(before.ended) {
					tr.wrong("%s: message %d was done twice, without a reason: %s", durable, id, tr.story(durable, id))
				}
			}
			before = d
		}
	}
	return again
}

// excused reports whether something happened to a process at about a time: it need not be one of
// those that handled the message, but may be its owner.
func (tr *troop) excused(at time.Time) bool {
	return slices.ContainsFunc(tr.troubles, func(o trouble) bool {
		return at.After(o.from.Add(-costOfKill)) && at.Before(o.to.Add(2*ackWaitOfMembers))
	})
}

// TestPromisesOfMembers has several processes share durables on one server. They are killed, stand
// still and go on, stop in order, and others start. BUS_TEST_SEEDS, BUS_TEST_MESSAGES and
// BUS_TEST_KILLS say how much.
func TestPromisesOfMembers(t *testing.T) {
	t.Parallel()
	seeds, n := numberFromEnv(t, "BUS_TEST_SEEDS", 1), numberFromEnv(t, "BUS_TEST_MESSAGES", underRace(300, 600))
	for i := range seeds {
		t.Run(fmt.Sprintf("seed %d", i+1), func(t *testing.T) {
			t.Parallel()
			if url := victimDir(t); url != "" {
				takePartUntilKilled(t, url)
				return
			}
			runMembers(t, uint64(i+1), n)
		})
	}
}

func runMembers(t *testing.T, seed uint64, n int) {
	b := ownBus(t, anyPort())
	st := declare(t, b, bus.StreamConfig{Name: "P", Subjects: []string{"p.>"}, Duplicates: time.Hour})
	tr := &troop{chronicle: newChronicle(seed, sharedDurables...), t: t, url: b.ClientURL(),
		chance: rand.New(rand.NewPCG(seed, 1<<42)), changed: make(chan struct{}, 1)}
	var publishing sync.WaitGroup
	publishing.Go(func() { tr.publishAll(st, n) })
	tr.start()
	tr.start()
	for range numberFromEnv(t, "BUS_TEST_KILLS", underRace(3, 5)) {
		tr.awaitCalls(tr.chance.IntN(n/2), 10*time.Second)
		tr.disturb()
	}
	publishing.Wait()
	tr.awaitCalls(1, 10*time.Second) // the durables are there
	for _, name := range sharedDurables {
		awaitAll(t, b, "P", name)
	}
	for len(tr.takers) > 0 {
		tr.end()
	}
	letters := deadLettersByMessage(t, st, tr.wrong)
	must(t, b.Close())
	tr.judge(letters)
}

func (tr *troop) judge(letters map[string]map[int]*bus.DeadLetter) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, l := range tr.lives {
		tr.troubles = append(tr.troubles, l.stalls...)
	}
	again, overlaps, troubles := 0, 0, len(tr.troubles)
	for _, name := range sharedDurables {
		tr.checkEnds(name, letters[name])
		tr.checkAttempts(name)
		again += tr.checkExcuses(name)
		if name != "free" {
			tr.checkOrder(name)
			overlaps += tr.checkOverlaps(name)
		}
	}
	for _, e := range tr.errs {
		tr.t.Error(e)
	}
	tr.t.Logf("%d messages, %d processes, %d kills, pauses and stalls, %d done again, %d overlaps", len(tr.stored), tr.begun, troubles, again, overlaps)
}
