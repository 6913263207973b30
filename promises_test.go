package bus_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// The tests of this file run publishers that are cancelled, and consumers that
// fail, panic, stall, run out of time and are stopped and started again, all by
// chance, with and without a backlog, and check what package bus promises of streams. The
// seed of a failure is in the test's name. Those of promises_kill_test.go and
// promises_members_test.go do that with processes that are killed.

// fate is what is going to happen to a message.
type fate int

const (
	fateDone      fate = iota // handled, perhaps after some failures
	fatePermanent             // given up at once, after some failures
	fateExhausted             // never handled
	fateMalformed             // not decoded
	fateInvalid               // refused by its Validate
)

const promisedAttempts = 5

// causes are what a message dies of.
var causes = map[fate]bus.Cause{fatePermanent: bus.CausePermanent, fateMalformed: bus.CauseMalformed, fateInvalid: bus.CauseInvalid}

// destiny is what happens to one message in each consumer.
type destiny struct {
	fate     fate
	failures int // before the last attempt
	key      string
}

// keysOf is how many keys a run has: few in half of the runs.
func keysOf(seed uint64) int {
	if seed%2 == 0 {
		return 20
	}
	return 1 + int(seed/2%5)
}

// destinyOf chooses what happens to a message.
func destinyOf(seed uint64, id int) destiny {
	r := rand.New(rand.NewPCG(seed, uint64(id)))
	d := destiny{key: "k" + strconv.Itoa(r.IntN(keysOf(seed)))}
	switch n := r.IntN(1000); {
	case n < 900:
	case n < 985:
		d.failures = 1 + r.IntN(promisedAttempts-1)
	case n < 990:
		d.fate, d.failures = fatePermanent, r.IntN(3)
	case n < 994:
		d.fate, d.failures = fateExhausted, promisedAttempts-1
	case n < 997:
		d.fate = fateMalformed
	default:
		d.fate = fateInvalid
	}
	return d
}

// promise is the type of the messages.
type promise struct {
	ID      int
	Invalid bool
}

func (p promise) Validate() error {
	if p.Invalid {
		return errors.New("invalid on receipt")
	}
	return nil
}

// unchecked is a promise that is valid when it is published.
type unchecked struct {
	ID      int
	Invalid bool
}

// promiseRun is one run of a seed.
type promiseRun struct {
	seed  uint64
	n     int
	onDir string // "" in memory
	accounts
}

// accounts is what each consumer did.
type accounts struct {
	mu     sync.Mutex
	stored map[int]uint64 // sequences of acknowledged messages by ID
	maybe  map[int]bool   // messages of which the publisher does not know
	seen   map[string]*account
	errs   []string
}

// account is what one consumer did.
type account struct {
	calls   map[int]int       // handler calls by message
	handled map[int]int       // of those that returned nil
	order   map[string]uint64 // the latest success of each key
	keyed   bool
	repeats bool // what is behind a message that cannot be decoded is handled again, as the same attempt
}

func (r *promiseRun) wrong(format string, args ...any) {
	if len(r.errs) < 20 {
		r.errs = append(r.errs, fmt.Sprintf(format, args...))
	}
}

// durables are the consumers of a run.
var durables = []struct {
	name  string
	keyed bool
	batch bool
	opts  []bus.ConsumeOption
}{
	{"free", false, false, []bus.ConsumeOption{bus.Concurrency(8)}},
	{"single", false, false, nil},
	{"keyed", true, false, []bus.ConsumeOption{bus.Concurrency(8), bus.KeyByToken(2)}},
	{"batches", false, true, []bus.ConsumeOption{bus.Concurrency(2), bus.BatchSize(20)}},
	{"keyed-batches", true, true, []bus.ConsumeOption{bus.Concurrency(3), bus.BatchSize(10), bus.KeyByToken(2)}},
}

func newPromiseRun(seed uint64, n int, dir string) *promiseRun {
	r := &promiseRun{seed: seed, n: n, onDir: dir,
		accounts: accounts{stored: map[int]uint64{}, maybe: map[int]bool{}, seen: map[string]*account{}}}
	for _, d := range durables {
		r.seen[d.name] = &account{calls: map[int]int{}, handled: map[int]int{}, order: map[string]uint64{}, keyed: d.keyed, repeats: d.keyed && d.batch}
	}
	return r
}

// handle is the handler of a durable.
func (r *promiseRun) handle(ctx context.Context, durable string, m *bus.Msg[promise]) error {
	d := destinyOf(r.seed, m.Data.ID)
	r.mu.Lock()
	l := r.seen[durable]
	l.calls[m.Data.ID]++
	call := l.calls[m.Data.ID]
	if l.repeats && m.Attempt < call {
		call = m.Attempt
	}
	if m.Attempt != call {
		r.wrong("%s: message %d: attempt %d at call %d", durable, m.Data.ID, m.Attempt, call)
	}
	r.mu.Unlock()
	chance := rand.New(rand.NewPCG(r.seed, uint64(m.Data.ID)<<8|uint64(call)))
	if call <= d.failures || d.fate == fateExhausted {
		return fail(ctx, chance)
	}
	if d.fate == fatePermanent {
		return bus.Permanent(errors.New("no use"))
	}
	if chance.IntN(200) == 0 {
		time.Sleep(time.Duration(chance.IntN(90)) * time.Second) // in virtual time
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l.handled[m.Data.ID]++
	if l.keyed && (!l.repeats || l.handled[m.Data.ID] == 1) {
		if m.Sequence < l.order[d.key] {
			r.wrong("%s: key %s: %d was handled after %d", durable, d.key, m.Sequence, l.order[d.key])
		}
		l.order[d.key] = m.Sequence
	}
	return nil
}

// fail fails in one of the ways in which handlers do.
func fail(ctx context.Context, chance *rand.Rand) error {
	switch chance.IntN(5) {
	case 0:
		panic("by chance")
	case 1:
		return bus.RetryAfter(time.Duration(chance.IntN(20))*time.Second, errors.New("asked"))
	case 2:
		<-ctx.Done() // in virtual time
		return ctx.Err()
	case 3:
		return bus.RetryAfter(10*time.Minute, errors.New("asked for long"))
	}
	return errors.New("failed")
}

func (r *promiseRun) open(t *testing.T, first *bus.Bus) *bus.Bus {
	if r.onDir == "" {
		return first
	}
	return openOn(t, r.onDir, bus.WithSync(bus.SyncEvery(time.Minute)), bus.WithMaxMemory(64<<20), bus.WithDrainTimeout(time.Hour))
}

func (r *promiseRun) consume(t *testing.T, st *bus.Stream, i int) *bus.Consumer {
	d := durables[i]
	opts := append([]bus.ConsumeOption{bus.HandlerTimeout(5 * time.Minute), bus.Retry(bus.RetryPolicy{MaxAttempts: promisedAttempts, MinBackoff: 50 * time.Millisecond, MaxBackoff: 5 * time.Second})}, d.opts...)
	handle := func(ctx context.Context, m *bus.Msg[promise]) error { return r.handle(ctx, d.name, m) }
	if d.batch {
		c, err := bus.ConsumeBatch(t.Context(), st, d.name, "p.>", eachOfBatch(d.keyed, handle), opts...)
		must(t, err)
		return c
	}
	c, err := bus.Consume(t.Context(), st, d.name, "p.>", handle, opts...)
	must(t, err)
	return c
}

// eachOfBatch handles the messages of a batch one after another. With keys it skips what is behind
// a failed one of its key.
func eachOfBatch(keyed bool, handle bus.Handler[promise]) bus.BatchHandler[promise] {
	return func(ctx context.Context, ms []*bus.Msg[promise]) error {
		var failed bus.BatchError
		behind := make(map[string]bool)
		for i, m := range ms {
			if keyed && behind[m.Subject] {
				continue
			}
			err := panicAsError(ctx, m, handle)
			failed.Add(i, err)
			behind[m.Subject] = err != nil
		}
		return failed.Err()
	}
}

func panicAsError(ctx context.Context, m *bus.Msg[promise], handle bus.Handler[promise]) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panicked: %v", p)
		}
	}()
	return handle(ctx, m)
}

// publish stores the messages from to to, some twice, and some with a context that
// ends at a bad moment.
func (r *promiseRun) publish(t *testing.T, st *bus.Stream, from, to int) {
	for id := from; id < to; id++ {
		chance := rand.New(rand.NewPCG(r.seed, ^uint64(id)))
		ctx, cancel := context.WithCancel(t.Context())
		if chance.IntN(50) == 0 {
			go cancel()
		}
		for range 1 + chance.IntN(20)/19 {
			r.note(ctx, st, id)
		}
		cancel()
	}
}

func (r *promiseRun) note(ctx context.Context, st *bus.Stream, id int) {
	ack, err := storePromise(ctx, st, r.seed, id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.maybe[id] = true
		return
	}
	if seq, there := r.stored[id]; there && seq != ack.Sequence {
		r.wrong("message %d was stored at %d and at %d", id, seq, ack.Sequence)
	}
	r.stored[id] = ack.Sequence
}

// phases is how often a run stops everything and starts it again.
const phases = 4

func (r *promiseRun) run(t *testing.T, first *bus.Bus) {
	chance := rand.New(rand.NewPCG(r.seed, 1<<40))
	for phase := range phases {
		b := r.open(t, first)
		st := declare(t, b, bus.StreamConfig{Name: "P", Subjects: []string{"p.>"}, Duplicates: time.Hour})
		var wg sync.WaitGroup
		from, size := phase*r.n/phases, r.n/phases
		for p := range 4 {
			wg.Go(func() { r.publish(t, st, from+p*size/4, from+(p+1)*size/4) })
		}
		if (int(r.seed)+phase)%2 == 1 {
			wg.Wait() // the consumers find a backlog
		}
		consumers := make([]*bus.Consumer, len(durables))
		for i := range consumers {
			consumers[i] = r.consume(t, st, i)
			times := chance.IntN(3)
			wg.Go(func() { consumers[i] = r.restart(t, st, i, consumers[i], times) })
		}
		wg.Wait()
		if phase == phases-1 {
			r.settleAll(t, st)
		}
		for _, c := range consumers {
			must(t, c.Drain(t.Context()))
		}
		if phase == phases-1 {
			r.check(t, st)
		}
		if b != first {
			must(t, b.Close())
		}
	}
}

// restart stops the consumer and starts it again, some times.
func (r *promiseRun) restart(t *testing.T, st *bus.Stream, i int, c *bus.Consumer, times int) *bus.Consumer {
	for range times {
		time.Sleep(3 * time.Second) // in virtual time
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		must(t, c.Drain(ctx))
		cancel()
		c = r.consume(t, st, i)
	}
	return c
}

// settleAll waits until every message has met its fate.
func (r *promiseRun) settleAll(t *testing.T, st *bus.Stream) {
	for range 6 * 24 * 7 {
		time.Sleep(10 * time.Minute) // in virtual time
		if r.settled(t, st) {
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong("after a week not all is settled")
}

func (r *promiseRun) settled(t *testing.T, st *bus.Stream) bool {
	letters := deadLettersByMessage(t, st, r.wrong)
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, l := range r.seen {
		for id := range r.stored {
			if l.handled[id] == 0 && letters[name][id] == nil {
				return false
			}
		}
	}
	return true
}

// deadLettersByMessage are the dead letters by consumer and message.
func deadLettersByMessage(t *testing.T, st *bus.Stream, wrong func(format string, args ...any)) map[string]map[int]*bus.DeadLetter {
	all := map[string]map[int]*bus.DeadLetter{}
	for l, err := range st.DeadLetters(t.Context(), bus.DeadFilter{}) {
		must(t, err)
		id, err := strconv.Atoi(l.Header.Get("Test-Id"))
		must(t, err)
		if all[l.Durable] == nil {
			all[l.Durable] = map[int]*bus.DeadLetter{}
		}
		if all[l.Durable][id] != nil {
			wrong("%s: message %d is a dead letter twice", l.Durable, id)
		}
		all[l.Durable][id] = l
	}
	return all
}

// check compares what happened with what was promised.
func (r *promiseRun) check(t *testing.T, st *bus.Stream) {
	letters := deadLettersByMessage(t, st, r.wrong)
	r.mu.Lock()
	defer r.mu.Unlock()
	again := 0
	for name, l := range r.seen {
		for id := range r.stored {
			again += r.checkOne(name, id, l, letters[name][id])
		}
		for id := range l.calls {
			if _, known := r.stored[id]; !known && !r.maybe[id] {
				r.wrong("%s: message %d came and was never published", name, id)
			}
		}
	}
	for _, e := range r.errs {
		t.Error(e)
	}
	t.Logf("%d of %d messages acknowledged, %d uncertain, %d handled again, %d dead letters", len(r.stored), r.n, len(r.maybe), again, len(letters["free"]))
}

// checkOne returns how often the message was handled more than once.
func (r *promiseRun) checkOne(name string, id int, l *account, letter *bus.DeadLetter) int {
	d := destinyOf(r.seed, id)
	if d.fate == fateDone {
		if l.handled[id] == 0 || letter != nil {
			r.wrong("%s: message %d was handled %d times, dead letter %v", name, id, l.handled[id], letter != nil)
		}
		return max(l.handled[id]-1, 0)
	}
	if letter == nil {
		r.wrong("%s: message %d is no dead letter", name, id)
		return 0
	}
	calls, cause := d.failures+1, causes[d.fate]
	if d.fate == fateMalformed || d.fate == fateInvalid {
		calls = 0 // of our handler; the library's attempt to read it counts as one
	}
	if l.handled[id] > 0 || l.calls[id] != calls && (!l.repeats || l.calls[id] < calls) || letter.Attempt != max(calls, 1) || cause != "" && letter.Cause != cause {
		r.wrong("%s: message %d (%+v): handled %d times, %d calls, dead letter after %d attempts of %s", name, id, d, l.handled[id], l.calls[id], letter.Attempt, letter.Cause)
	}
	return 0
}

// promisedRuns is how many seeds are run, and with how many messages: few by
// default, or as BUS_TEST_SEEDS and BUS_TEST_MESSAGES say.
func promisedRuns(t *testing.T) (seeds, messages int) {
	return numberFromEnv(t, "BUS_TEST_SEEDS", 1), numberFromEnv(t, "BUS_TEST_MESSAGES", underRace(200, 1000))
}

// numberFromEnv is how much of something a long run asks for, otherwise by default.
func numberFromEnv(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

func TestPromisesOfStreams(t *testing.T) {
	t.Parallel()
	seeds, n := promisedRuns(t)
	for i := range seeds {
		seed := uint64(i + 1)
		for _, where := range []string{"memory", "file"} {
			t.Run(fmt.Sprintf("seed %d, %s", seed, where), func(t *testing.T) {
				t.Parallel()
				dir := ""
				if where == "file" {
					dir = t.TempDir()
				}
				bustest.Run(t, func(t *testing.T, b *bus.Bus) {
					newPromiseRun(seed, n, dir).run(t, b)
				}, bus.WithLogger(silent()), bus.WithDrainTimeout(time.Hour))
			})
		}
	}
}
