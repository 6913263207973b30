package bus_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
)

// The tests of this file and of promises_members_test.go are those of promises_test.go with real
// processes, in real time. The processes are killed at moments that nothing chooses, also while
// they start. They say in lines what they do. The parent notes that, and checks at the end what
// package bus promises of streams. The seed of a failure is in the test's name.

// deed is one handler call.
type deed struct {
	by       *life
	id       int
	sequence uint64
	attempt  int
	began    time.Time
	ended    time.Time // zero if it never did
	result   string    // done, failed or permanent
	refused  bool      // surely; an outcome that is unknown may count
}

// final reports whether the message needs no further call.
func (d *deed) final() bool {
	return d.result == "done" || d.result == "permanent" || d.result == "failed" && d.attempt == promisedAttempts
}

// life is one process, from its start to its end.
type life struct {
	number  int
	died    time.Time     // when it was killed; zero if it was not
	tick    time.Time     // its last sign of life
	gap     time.Duration // the longest time without one
	stalls  []trouble
	stalled bool                 // it stood still, or got no processor for long
	drained map[string]time.Time // when a consumer had last stopped in it; zero while that goes on
}

func newLife(number int) *life { return &life{number: number, drained: make(map[string]time.Time)} }

// chronicle is what all processes of a run did.
type chronicle struct {
	seed   uint64
	mu     sync.Mutex
	stored map[int]uint64             // sequences of acknowledged messages by ID
	deeds  map[string]map[int][]*deed // by durable and message, in the order of their beginning
	open   map[*life]map[int64]*deed  // those that run, by number
	errs   []string
}

func newChronicle(seed uint64, names ...string) *chronicle {
	c := &chronicle{seed: seed, stored: make(map[int]uint64), deeds: make(map[string]map[int][]*deed), open: make(map[*life]map[int64]*deed)}
	for _, name := range names {
		c.deeds[name] = make(map[int][]*deed)
	}
	return c
}

func (c *chronicle) wrong(format string, args ...any) {
	if len(c.errs) < 20 {
		c.errs = append(c.errs, fmt.Sprintf(format, args...))
	}
}

// hear notes what a process said. It returns the first word of the line.
func (c *chronicle) hear(l *life, line string) (what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what, _, _ = strings.Cut(line, " ")
	var durable string
	var id, attempt int
	var seq uint64
	var call, at int64
	switch what {
	case "stored":
		if scanned(line, "stored %d %d", &id, &seq) {
			c.storedAt(id, seq)
		}
	case "call":
		if scanned(line, "call %d %s %d %d %d %d", &call, &durable, &id, &seq, &attempt, &at) {
			c.begin(durable, call, &deed{by: l, id: id, sequence: seq, attempt: attempt, began: time.Unix(0, at)})
		}
	case "done", "failed", "permanent":
		if scanned(line, what+" %d %d", &call, &at) {
			c.end(l, call, what, time.Unix(0, at))
		}
	case "refused":
		if scanned(line, "refused %s %d", &durable, &seq) {
			c.refuse(l, durable, seq)
		}
	case "draining":
		l.drained[strings.TrimPrefix(line, "draining ")] = time.Time{}
	case "drained":
		if scanned(line, "drained %s %d", &durable, &at) {
			l.drained[durable] = time.Unix(0, at)
		}
	case "tick":
		if scanned(line, "tick %d", &at) {
			l.ticked(time.Unix(0, at))
		}
	}
	return what
}

func (c *chronicle) storedAt(id int, seq uint64) {
	if before, there := c.stored[id]; there && before != seq {
		c.wrong("message %d was stored at %d and at %d", id, before, seq)
	}
	c.stored[id] = seq
}

func (c *chronicle) begin(durable string, call int64, d *deed) {
	if seq, there := c.stored[d.id]; there && seq != d.sequence {
		c.wrong("%s: message %d came as %d, was stored at %d", durable, d.id, d.sequence, seq)
	}
	c.deeds[durable][d.id] = append(c.deeds[durable][d.id], d)
	if c.open[d.by] == nil {
		c.open[d.by] = make(map[int64]*deed)
	}
	c.open[d.by][call] = d
}

func (c *chronicle) end(l *life, call int64, result string, at time.Time) {
	d := c.open[l][call]
	if d == nil {
		c.wrong("call %d of process %d is %s and was not begun", call, l.number, result)
		return
	}
	delete(c.open[l], call)
	d.result, d.ended = result, at
}

// refuse notes that an outcome does not count: that of the latest call of l for the message that
// has ended. The process may have begun the message again before it says so.
func (c *chronicle) refuse(l *life, durable string, seq uint64) {
	var latest *deed
	for _, all := range c.deeds[durable] {
		for _, d := range all {
			if d.by == l && d.sequence == seq && d.result != "" {
				latest = d
			}
		}
	}
	if latest != nil {
		latest.refused = true
	}
}

const (
	tickEvery = 50 * time.Millisecond
	stallOf   = 100 * time.Millisecond // what counts as a stall: less than a process may have before others act
)

// trouble is a time in which a process was killed or stood still.
type trouble struct{ from, to time.Time }

// ticked notes a sign of life, and how long the process had none.
func (l *life) ticked(at time.Time) {
	if gap := at.Sub(l.tick) - tickEvery; !l.tick.IsZero() {
		l.gap = max(l.gap, gap)
		if gap > stallOf {
			l.stalls = append(l.stalls, trouble{l.tick, at})
		}
	}
	l.tick = at
}

// tickUntil says that this process lives, until ctx ends.
func tickUntil(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case at := <-tick.C:
			say("tick %d", at.UnixNano())
		case <-ctx.Done():
			return
		}
	}
}

// tell is say, or what notes the same of this process.
type tell func(format string, args ...any)

// callNumber numbers the handler calls of a process.
var callNumber atomic.Int64

// handle is the handler of a durable. It says what it does before it does it.
func (say tell) handle(ctx context.Context, seed uint64, durable string, m *bus.Msg[promise]) error {
	id := m.Data.ID
	d, chance := destinyOf(seed, id), rand.New(rand.NewPCG(rand.Uint64(), uint64(id)))
	call := callNumber.Add(1)
	say("call %d %s %d %d %d %d", call, durable, id, m.Sequence, m.Attempt, time.Now().UnixNano())
	time.Sleep(time.Duration(chance.IntN(3000)) * time.Microsecond) // the work
	switch {
	case m.Attempt <= d.failures || d.fate == fateExhausted:
		say("failed %d %d", call, time.Now().UnixNano())
		return failSoon(chance)
	case d.fate == fatePermanent:
		say("permanent %d %d", call, time.Now().UnixNano())
		return bus.Permanent(errors.New("no use"))
	}
	say("done %d %d", call, time.Now().UnixNano())
	return nil
}

// failSoon fails in one of the ways in which handlers do.
func failSoon(chance *rand.Rand) error {
	switch chance.IntN(4) {
	case 0:
		panic("by chance")
	case 1:
		return bus.RetryAfter(time.Duration(chance.IntN(800))*time.Millisecond, errors.New("asked"))
	}
	return errors.New("failed")
}

// consumeSaying consumes with a durable of a run.
func (say tell) consume(t *testing.T, st *bus.Stream, seed uint64, name string, more ...bus.ConsumeOption) *bus.Consumer {
	i := 0
	for durables[i].name != name {
		i++
	}
	d := durables[i]
	opts := append([]bus.ConsumeOption{bus.Retry(bus.RetryPolicy{MaxAttempts: promisedAttempts, MinBackoff: 5 * time.Millisecond, MaxBackoff: 50 * time.Millisecond, MaxCrashes: 1000})}, d.opts...)
	opts = append(opts, more...)
	handle := func(ctx context.Context, m *bus.Msg[promise]) error { return say.handle(ctx, seed, name, m) }
	if d.batch {
		c, err := bus.ConsumeBatch(t.Context(), st, name, "p.>", eachOfBatch(d.keyed, handle), opts...)
		must(t, err)
		return c
	}
	c, err := bus.Consume(t.Context(), st, name, "p.>", handle, opts...)
	must(t, err)
	return c
}

// storePromise stores message id of a run.
func storePromise(ctx context.Context, st *bus.Stream, seed uint64, id int) (*bus.Ack, error) {
	d := destinyOf(seed, id)
	opts := []bus.StoreOption{bus.MsgID(strconv.Itoa(id)), bus.WithHeader("Test-Id", strconv.Itoa(id))}
	if d.fate == fateMalformed {
		return bus.PublishTo(ctx, st, bus.Subject[[]byte]("p."+d.key), []byte(`{"ID": `), opts...)
	}
	return bus.PublishTo(ctx, st, bus.Subject[unchecked]("p."+d.key), unchecked{ID: id, Invalid: d.fate == fateInvalid}, opts...)
}

// embedding is one life of a process that embeds the server: it stores messages and handles them.
type embedding struct {
	say  tell
	seed uint64
	n    int
	from []int // the next message of each publisher
	life int
}

const publishersOfLife = 4

// live starts everything. The publishers end when all messages are stored.
func (e *embedding) live(t *testing.T, b *bus.Bus, publishing *sync.WaitGroup) (*bus.Stream, []*bus.Consumer) {
	st := declare(t, b, bus.StreamConfig{Name: "P", Subjects: []string{"p.>"}, Duplicates: time.Hour})
	backlog := (int(e.seed)+e.life)%2 == 1
	for p := range publishersOfLife {
		publishing.Go(func() { e.publish(t, st, p, backlog) })
	}
	var consumers []*bus.Consumer
	for _, d := range durables {
		consumers = append(consumers, e.say.consume(t, st, e.seed, d.name))
	}
	return st, consumers
}

// publish stores the messages of one publisher, the last few of the life before once more.
func (e *embedding) publish(t *testing.T, st *bus.Stream, p int, backlog bool) {
	for id := max(e.from[p]-5*publishersOfLife, p); id < e.n; id += publishersOfLife {
		ack, err := storePromise(context.Background(), st, e.seed, id)
		if err != nil {
			t.Errorf("message %d: %v", id, err)
			return
		}
		e.say("stored %d %d", id, ack.Sequence)
		if !backlog {
			time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond) // so that handlers keep up
		}
	}
}

const (
	envSeed = "BUS_TEST_SEED"
	envFrom = "BUS_TEST_FROM" // the number of the life, and the next message of each publisher
)

// embedUntilKilled is the child.
func embedUntilKilled(t *testing.T, dir string, n int) {
	seed, err := strconv.ParseUint(os.Getenv(envSeed), 10, 64)
	must(t, err)
	e := &embedding{say: say, seed: seed, n: n, from: make([]int, publishersOfLife)}
	if text := os.Getenv(envFrom); !scanned(text, "%d %d %d %d %d", &e.life, &e.from[0], &e.from[1], &e.from[2], &e.from[3]) {
		t.Fatalf("%s is %q", envFrom, text)
	}
	go tickUntil(t.Context())
	var publishing sync.WaitGroup
	st, consumers := e.live(t, openOn(t, dir, bus.WithSync(bus.SyncEvery(time.Second)), bus.WithMaxMemory(64<<20)), &publishing)
	for {
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
		i := rand.IntN(len(consumers))
		say("draining %s", durables[i].name)
		must(t, consumers[i].Drain(t.Context()))
		say("drained %s %d", durables[i].name, time.Now().UnixNano())
		consumers[i] = e.say.consume(t, st, seed, durables[i].name)
	}
}

// next says where the publishers go on, after what was stored.
func (c *chronicle) next(life int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := strconv.Itoa(life)
	for p := range publishersOfLife {
		id := p
		for c.stored[id] > 0 {
			id += publishersOfLife
		}
		text += " " + strconv.Itoa(id)
	}
	return text
}

// remaining is how many results are missing.
func (c *chronicle) remaining(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := n * len(c.deeds)
	for _, of := range c.deeds {
		left -= len(of)
	}
	return left
}

// killOne has a child live until it has begun so many calls, or for a while from its start on,
// and kills it.
func (c *chronicle) killOne(t *testing.T, dir string, l *life, calls int, during time.Duration) {
	t.Helper()
	v := startVictim(t, dir, envSeed+"="+strconv.FormatUint(c.seed, 10), envFrom+"="+c.next(l.number))
	die := func() {
		l.died = time.Now()
		_ = v.cmd.Process.Kill() // v.kill tells whether that is how it ended
	}
	if calls == 0 {
		defer time.AfterFunc(during, die).Stop()
	}
	begun := 0
	v.kill(t, func(line string) bool {
		if c.hear(l, line) == "call" {
			begun++
		}
		if begun == calls && calls > 0 {
			l.died = time.Now()
			return false
		}
		return true
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	l.ticked(l.died)
}

// costOfKill is how long before a kill the last outcome was that the server has certainly written
// down: 100 ms, and what a busy machine adds to that.
const costOfKill = time.Second

// inTwoPlaces reports whether a kill may have left a message in its stream and in S-retry: its copy
// was stored or moved there, and the server had not yet written down that the one before is
// acknowledged or removed. Then both are handled (ADR 12 and 16). Without keys only what waits for
// a retry is copied, when its consumer stops.
func inTwoPlaces(durable string, all []*deed, l *life, keyed bool) bool {
	return l.number > 0 && keyed || slices.ContainsFunc(all, func(d *deed) bool {
		at, drained := d.by.drained[durable]
		return d.result == "failed" && d.by.number < l.number && drained && (at.IsZero() || d.by.mayForget(at))
	})
}

// mayForget reports whether the kill of a process may have cost what was acknowledged at a time.
func (l *life) mayForget(at time.Time) bool { return l.died.Sub(at) < costOfKill+2*l.gap }

// repeats are what was done more than once.
type repeats struct {
	again  int           // how often
	copies int           // how often of that because a message was in two places
	oldest time.Duration // before a kill
}

// checkRepeats checks that nothing was handled again that was done long before a kill.
func (c *chronicle) checkRepeats(durable string, keyed, batches bool, r *repeats) {
	for id, all := range c.deeds[durable] {
		var before *deed
		for _, d := range all {
			if d.result != "done" {
				continue
			}
			if before != nil {
				r.again++
				c.checkRepeat(durable, id, before, d, keyed, batches, r)
			}
			before = d
		}
	}
}

func (c *chronicle) checkRepeat(durable string, id int, before, d *deed, keyed, batches bool, r *repeats) {
	age := before.by.died.Sub(before.ended)
	switch {
	case batches && before.by == d.by: // what is behind a message that cannot be decoded is handled again
	case before.by != d.by && before.by.mayForget(before.ended):
		r.oldest = max(r.oldest, age)
	case inTwoPlaces(durable, c.deeds[durable][id], d.by, keyed):
		r.copies++
	default:
		c.wrong("%s: message %d was done in life %d, %v before that was killed, and again in life %d: %s", durable, id, before.by.number, age, d.by.number, c.story(durable, id))
	}
}

// checkAttempts checks that no attempt is counted that was not made, and that none is made too many.
func (c *chronicle) checkAttempts(durable string) {
	for id, all := range c.deeds[durable] {
		for _, d := range all {
			failed := 0
			for _, e := range all {
				if e.result == "failed" && !e.ended.After(d.began) {
					failed = max(failed, e.attempt)
				}
			}
			if d.attempt < 1 || d.attempt > promisedAttempts || d.attempt > failed+1 {
				c.wrong("%s: message %d: attempt %d after %d failures", durable, id, d.attempt, failed)
			}
		}
	}
}

// checkProgress checks that within a life each attempt follows the one before.
func (c *chronicle) checkProgress(durable string, keyed, batches bool) {
	for id, all := range c.deeds[durable] {
		for i, d := range all[1:] {
			before := all[i]
			follows := d.attempt == before.attempt+1 || batches && d.attempt == before.attempt
			if before.by == d.by && before.result == "failed" && !follows && !inTwoPlaces(durable, all, d.by, keyed) {
				c.wrong("%s: message %d: attempt %d after attempt %d failed", durable, id, d.attempt, before.attempt)
			}
		}
	}
}

// checkOrder checks that the messages of a key got their first result in order. What cannot be
// decoded has none.
func (c *chronicle) checkOrder(durable string) {
	first := make(map[string][]*deed) // by key
	for id, all := range c.deeds[durable] {
		var earliest *deed
		for _, d := range all {
			if d.final() && (earliest == nil || d.ended.Before(earliest.ended)) {
				earliest = d
			}
		}
		if earliest != nil {
			key := destinyOf(c.seed, id).key
			first[key] = append(first[key], earliest)
		}
	}
	for key, all := range first {
		slices.SortFunc(all, func(a, b *deed) int { return cmp.Compare(a.sequence, b.sequence) })
		for i, d := range all[1:] {
			if before := all[i]; d.ended.Before(before.ended) {
				c.wrong("%s: key %s: %d was %s %v before %d was %s", durable, key, d.sequence, d.result, before.ended.Sub(d.ended), before.sequence, before.result)
			}
		}
	}
}

// checkEnds checks that each acknowledged message was handled or is a dead letter, as it was to be.
func (c *chronicle) checkEnds(durable string, letters map[int]*bus.DeadLetter) {
	for id := range c.stored {
		c.checkEnd(durable, id, letters[id])
	}
	for id := range letters {
		if _, called := c.deeds[durable][id]; !called && c.stored[id] == 0 {
			c.wrong("%s: message %d is a dead letter and was not stored", durable, id)
		}
	}
}

func (c *chronicle) checkEnd(durable string, id int, letter *bus.DeadLetter) {
	d, done, given := destinyOf(c.seed, id), false, false
	for _, call := range c.deeds[durable][id] {
		done = done || call.result == "done" && !call.refused
		given = given || call.final() && call.result != "done"
	}
	if d.fate == fateDone {
		if !done || letter != nil {
			c.wrong("%s: message %d at %d: handled %t, dead letter %+v; calls: %s", durable, id, c.stored[id], done, letter, c.story(durable, id))
		}
		return
	}
	attempts, called := d.failures+1, true
	if d.fate == fateMalformed || d.fate == fateInvalid {
		attempts, called = 1, false
	}
	cause := causes[d.fate]
	if letter == nil || done || given != called || letter.Attempt != attempts || cause != "" && letter.Cause != cause || letter.Cause == bus.CauseCrashLoop {
		c.wrong("%s: message %d (%+v): handled %t, given up by its handler %t, dead letter %+v; calls: %s", durable, id, d, done, given, letter, c.story(durable, id))
	}
}

// story says what happened to a message.
func (c *chronicle) story(durable string, id int) string {
	var b strings.Builder
	for _, d := range c.deeds[durable][id] {
		fmt.Fprintf(&b, "attempt %d in process %d at %s: %q, refused %t; ", d.attempt, d.by.number, d.began.Format("05.000"), d.result, d.refused)
	}
	return b.String()
}

// TestPromisesWithKills kills a process that embeds the server and its consumers again and again,
// at each moment of its life. BUS_TEST_SEEDS, BUS_TEST_MESSAGES and BUS_TEST_KILLS say how much.
func TestPromisesWithKills(t *testing.T) {
	t.Parallel()
	seeds, n := numberFromEnv(t, "BUS_TEST_SEEDS", 1), numberFromEnv(t, "BUS_TEST_MESSAGES", underRace(200, 400))
	for i := range seeds {
		t.Run(fmt.Sprintf("seed %d", i+1), func(t *testing.T) {
			t.Parallel()
			if dir := victimDir(t); dir != "" {
				embedUntilKilled(t, dir, n)
			}
			runWithKills(t, uint64(i+1), n)
		})
	}
}

func runWithKills(t *testing.T, seed uint64, n int) {
	names := make([]string, len(durables))
	for i, d := range durables {
		names[i] = d.name
	}
	c, dir, kills := newChronicle(seed, names...), t.TempDir(), numberFromEnv(t, "BUS_TEST_KILLS", underRace(3, 5))
	chance := rand.New(rand.NewPCG(seed, 1<<41))
	for number := range kills {
		calls := 1 + chance.IntN(1+max(2*c.remaining(n)/(kills-number+1), 0))
		if chance.IntN(3) == 0 {
			calls = 0
		}
		c.killOne(t, dir, newLife(number), calls, time.Duration(chance.IntN(400))*time.Millisecond)
	}
	c.finish(t, dir, n, kills)
}

// finish is the last life, in this process. It handles what is left.
func (c *chronicle) finish(t *testing.T, dir string, n, kills int) {
	last := newLife(kills)
	e := &embedding{seed: c.seed, n: n, life: kills, from: make([]int, publishersOfLife), say: func(format string, args ...any) { c.hear(last, fmt.Sprintf(format, args...)) }}
	var publishing sync.WaitGroup
	b := openOn(t, dir)
	st, consumers := e.live(t, b, &publishing)
	publishing.Wait()
	for _, d := range durables {
		awaitAll(t, b, "P", d.name)
	}
	letters := deadLettersByMessage(t, st, c.wrong)
	for _, con := range consumers {
		must(t, con.Drain(t.Context()))
	}
	must(t, b.Close())
	c.mu.Lock()
	defer c.mu.Unlock()
	var r repeats
	for _, d := range durables {
		c.checkEnds(d.name, letters[d.name])
		c.checkAttempts(d.name)
		c.checkProgress(d.name, d.keyed, d.keyed && d.batch)
		c.checkRepeats(d.name, d.keyed, d.keyed && d.batch, &r)
		if d.keyed {
			c.checkOrder(d.name)
		}
	}
	for _, e := range c.errs {
		t.Error(e)
	}
	t.Logf("%d messages, %d kills, %d done again, the earliest %v before its kill, %d of them in two places", len(c.stored), kills, r.again, r.oldest.Round(time.Millisecond), r.copies)
}
