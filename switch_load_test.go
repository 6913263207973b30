package bus_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

// switchMessages is how many messages a load stores before it switches. The variable sets more.
func switchMessages(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("BUS_TEST_SWITCH_MESSAGES"))
	if err != nil {
		return 1000
	}
	t.Logf("%d messages before the switch", n)
	return n
}

// loaded is a message of a load: a number, and a body of any size.
type loaded struct {
	N    int
	Body json.RawMessage
}

// loadBodies returns bodies of many sizes: those of real webhooks where they are, and others. A
// million of messages gets small ones: the others would take 10 GB.
func loadBodies(t *testing.T, messages int) (all []json.RawMessage) {
	t.Helper()
	for _, size := range []int{0, 10, 100, 1000} {
		all = append(all, fmt.Appendf(nil, "%q", strings.Repeat("x", size)))
	}
	if messages >= 1_000_000 {
		return all
	}
	for _, size := range []int{10_000, 100_000} {
		all = append(all, fmt.Appendf(nil, "%q", strings.Repeat("x", size)))
	}
	f, err := os.Open(filepath.Join("..", "shared", "data", "github-webhooks.ndjson"))
	if err != nil {
		t.Logf("without real webhooks: %v", err)
		return all
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		all = append(all, json.RawMessage(lines.Text()))
	}
	must(t, lines.Err())
	return all
}

// handledOnce counts how often each message of a durable was handled for good.
type handledOnce struct {
	name string
	mu   sync.Mutex
	done map[int]int
	last map[string]int // by key
	bad  []string
}

func (h *handledOnce) add(m *bus.Msg[loaded], keyed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done[m.Data.N]++
	if keyed && m.Data.N < h.last[m.Subject] {
		h.bad = append(h.bad, fmt.Sprintf("%s: %d after %d", m.Subject, m.Data.N, h.last[m.Subject]))
	}
	h.last[m.Subject] = m.Data.N
}

func (h *handledOnce) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.done)
}

// mustHave checks that all of acked were handled, each once and in order.
func (h *handledOnce) mustHave(t *testing.T, acked map[int]uint64) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	lost, doubled := 0, 0
	for n := range acked {
		switch h.done[n] {
		case 0:
			lost++
		case 1:
		default:
			doubled++
		}
	}
	if lost+doubled+len(h.bad) > 0 {
		t.Errorf("%s: of %d messages %d were lost, %d handled again, %d out of order: %v", h.name, len(acked), lost, doubled, len(h.bad), h.bad[:min(len(h.bad), 5)])
	}
}

// loadStream is a stream of a load.
type loadStream struct {
	*bus.Stream
	subject string
	handled []*handledOnce
	mu      sync.Mutex
	acked   map[int]uint64 // the sequences, by number
	seqs    map[uint64]bool
}

// switchLoad is what a bus does before, while and after it switches.
type switchLoad struct {
	t                 *testing.T
	b                 *bus.Bus
	events            *loadStream // on disk, with batches
	jobs              *loadStream // a work queue
	ticks             *loadStream // in memory
	bodies            []json.RawMessage
	later             time.Duration // how long "deferred" defers a message
	next              atomic.Int64
	longest           atomic.Int64 // that a call waited, in nanoseconds
	replies           atomic.Int64
	long              chan struct{} // has room for handlers that run across the switch
	switched, stopped chan struct{}
	workers           sync.WaitGroup
}

var errNotYet = errors.New("not yet")

// newSwitchLoad declares streams and consumers of every kind: with and without keys, with
// retries here and deferred ones, slow handlers, batches, a work queue, memory, and requests.
func newSwitchLoad(t *testing.T, b *bus.Bus, messages int) *switchLoad {
	t.Helper()
	l := &switchLoad{t: t, b: b, bodies: loadBodies(t, messages), later: 3 * time.Second, long: make(chan struct{}, 8), switched: make(chan struct{}), stopped: make(chan struct{})}
	if messages > 1000 {
		l.later = 31 * time.Second // the retry stream has what waits for longer than 30 s
	}
	l.events = l.stream(bus.StreamConfig{Name: "LOAD", Subjects: []string{"load.*"}, AtomicBatches: true})
	l.jobs = l.stream(bus.StreamConfig{Name: "JOBS", Subjects: []string{"jobs.*"}, Retention: bus.WorkQueueRetention})
	l.ticks = l.stream(bus.StreamConfig{Name: "TICKS", Subjects: []string{"ticks.*"}, Storage: bus.MemoryStorage})
	retry := bus.Retry(bus.RetryPolicy{MaxAttempts: 5, MinBackoff: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond})
	l.consume(l.events, "plain", retry, false, func(m *bus.Msg[loaded]) error {
		switch {
		case m.Data.N%100 == 7:
			l.runAcross()
		case m.Data.N%10 == 3 && m.Attempt < 3:
			return errNotYet
		}
		return nil
	})
	l.consume(l.events, "keyed", retry, true, func(m *bus.Msg[loaded]) error {
		if m.Data.N%50 == 9 && m.Attempt < 2 {
			return errNotYet
		}
		return nil
	}, bus.KeyBySubject())
	l.consume(l.events, "deferred", bus.Retry(bus.RetryPolicy{MaxAttempts: 3, MinBackoff: 10 * time.Second, MaxBackoff: 10 * time.Second}), false, func(m *bus.Msg[loaded]) error {
		if m.Data.N%100 == 5 && m.Attempt < 2 {
			return bus.RetryAfter(l.later, errNotYet)
		}
		return nil
	})
	fine := func(*bus.Msg[loaded]) error { return nil }
	l.consume(l.jobs, "workers", retry, false, fine)
	l.consume(l.ticks, "clock", retry, true, fine, bus.KeyBySubject())
	_, err := bus.Respond(b, bus.Endpoint[int, int]("load-double"), double)
	must(t, err)
	return l
}

// runAcross lets a few handlers run until the bus has switched.
func (l *switchLoad) runAcross() {
	select {
	case l.long <- struct{}{}:
		<-l.switched
	default:
	}
}

func (l *switchLoad) stream(c bus.StreamConfig) *loadStream {
	return &loadStream{Stream: declare(l.t, l.b, c), subject: c.Subjects[0], acked: make(map[int]uint64), seqs: make(map[uint64]bool)}
}

// consume counts what a durable handles.
func (l *switchLoad) consume(st *loadStream, durable string, retry bus.ConsumeOption, keyed bool, fail func(*bus.Msg[loaded]) error, opts ...bus.ConsumeOption) {
	l.t.Helper()
	h := &handledOnce{name: durable, done: make(map[int]int), last: make(map[string]int)}
	st.handled = append(st.handled, h)
	consume(l.t, st.Stream, durable, bus.Subject[loaded](st.subject), func(_ context.Context, m *bus.Msg[loaded]) error {
		if err := fail(m); err != nil {
			return err
		}
		h.add(m, keyed)
		return nil
	}, append(opts, retry, bus.Concurrency(16))...)
}

// run starts publishers and requesters.
func (l *switchLoad) run() {
	for range 4 {
		l.workers.Go(l.publish)
	}
	l.workers.Go(l.request)
}

func (l *switchLoad) ended() bool {
	select {
	case <-l.stopped:
		return true
	default:
		return false
	}
}

// publish stores messages, each key by one publisher, until the load ends.
func (l *switchLoad) publish() {
	key := fmt.Sprint(rand.Int64())
	for i := 0; !l.ended(); i++ {
		began := time.Now()
		var err error
		switch {
		case i%10 == 0:
			err = l.storeBatch(key)
		case i%10 < 3:
			err = l.store(l.jobs, key, i)
		case i%10 < 5:
			err = l.store(l.ticks, key, i)
		default:
			err = l.store(l.events, key, i)
		}
		if err != nil {
			l.t.Errorf("a message was not stored: %v", err)
			return
		}
		for waited := int64(time.Since(began)); ; {
			longest := l.longest.Load()
			if waited <= longest || l.longest.CompareAndSwap(longest, waited) {
				break
			}
		}
	}
}

func (l *switchLoad) message() loaded {
	n := int(l.next.Add(1))
	return loaded{n, l.bodies[n%len(l.bodies)]}
}

func (s *loadStream) subjectOf(key string) bus.Subject[loaded] {
	return bus.Subject[loaded](strings.Replace(s.subject, "*", key, 1))
}

func (l *switchLoad) store(st *loadStream, key string, i int) error {
	var opts []bus.StoreOption
	if i%2 == 0 {
		opts = append(opts, bus.AutoID())
	}
	m := l.message()
	ack, err := bus.PublishTo(l.t.Context(), st.Stream, st.subjectOf(key), m, opts...)
	if err == nil {
		l.record(st, ack.Sequence, m.N)
	}
	return err
}

// storeBatch stores three messages together.
func (l *switchLoad) storeBatch(key string) error {
	var items []bus.Item
	var numbers []int
	for range 3 {
		m := l.message()
		items, numbers = append(items, bus.ItemOf(l.events.subjectOf(key), m)), append(numbers, m.N)
	}
	ack, err := bus.PublishToBatch(l.t.Context(), l.events.Stream, items...)
	if err == nil {
		l.record(l.events, ack.First, numbers...)
	}
	return err
}

// record records acknowledged messages.
func (l *switchLoad) record(st *loadStream, first uint64, numbers ...int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for i, n := range numbers {
		seq := first + uint64(i)
		if st.seqs[seq] {
			l.t.Errorf("two messages of stream %s have the sequence %d", st.Name(), seq)
		}
		st.seqs[seq], st.acked[n] = true, seq
	}
}

// mustKeep checks that the stream has all acknowledged messages with their sequences.
func (s *loadStream) mustKeep(t *testing.T) {
	t.Helper()
	kept := 0
	for _, m := range replayed(t, s.Stream, bus.Subject[loaded](s.subject)) {
		switch seq, acked := s.acked[m.Data.N]; {
		case acked && seq == m.Sequence:
			kept++
		case acked:
			t.Errorf("message %d of stream %s has the sequence %d, and was acknowledged with %d", m.Data.N, s.Name(), m.Sequence, seq)
		}
	}
	if kept != len(s.acked) {
		t.Errorf("stream %s has %d of %d acknowledged messages", s.Name(), kept, len(s.acked))
	}
}

// request asks the responder of the bus until the load ends. It leaves the processor to messages.
func (l *switchLoad) request() {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for ; !l.ended(); <-pace.C {
		got, err := bus.Request(l.t.Context(), l.b, bus.Endpoint[int, int]("load-double"), 21)
		if err != nil || got != 42 {
			l.t.Errorf("Request = %d, %v", got, err)
			return
		}
		l.replies.Add(1)
	}
}

// awaitLong waits for cond, which may take minutes.
func (l *switchLoad) awaitLong(what string, cond func() bool) {
	l.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Minute)
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			l.t.Errorf("did not happen: %s", what)
			return
		}
	}
}

// stored waits until so many messages were stored.
func (l *switchLoad) stored(n int) {
	l.t.Helper()
	l.awaitLong(fmt.Sprintf("%d messages are stored", n), func() bool { return int(l.next.Load()) >= n })
}

// mustDefer waits until the retry stream has messages. That takes long deferrals.
func (l *switchLoad) mustDefer() {
	l.t.Helper()
	if l.later > 30*time.Second {
		l.awaitLong("messages are deferred", func() bool { return deferredOf(l.t, l.b, "LOAD", "deferred") > 0 })
	}
}

// end ends the load and checks that everything was handled once, and has its sequence. A settlement
// that was lost shows when its message comes again.
func (l *switchLoad) end() {
	l.t.Helper()
	close(l.stopped)
	l.workers.Wait()
	all := 0
	for _, st := range []*loadStream{l.events, l.jobs, l.ticks} {
		all += len(st.acked)
		for _, h := range st.handled {
			l.awaitLong(h.name+" handles everything", func() bool { return h.len() >= len(st.acked) })
			awaitAll(l.t, l.b, st.Name(), h.name)
			h.mustHave(l.t, st.acked)
		}
	}
	for _, st := range []*loadStream{l.events, l.ticks} {
		st.mustKeep(l.t)
	}
	l.t.Logf("%d messages, %d replies, longest wait of a publisher %v", all, l.replies.Load(), time.Duration(l.longest.Load()))
}

// A bus switches to a single server and to a cluster while it publishes, handles, retries and
// answers requests. Nothing is lost, handled again, or out of order, and no call fails.
func TestSwitchToUnderLoad(t *testing.T) {
	t.Parallel()
	toServers(t, func(t *testing.T, n int, urls string) {
		messages, opts := switchMessages(t), []bus.Option{bus.WithTimeout(time.Minute), bus.WithMaxMemory(1 << 30)} // MaxWait is as long as the timeout
		if messages > 1000 {
			opts = append(opts, bus.WithSync(bus.SyncEvery(time.Second)))
		}
		b := openOn(t, t.TempDir(), opts...)
		l := newSwitchLoad(t, b, messages)
		l.run()
		l.stored(messages)
		l.mustDefer()
		l.longest.Store(0)
		report, err := b.SwitchTo(t.Context(), urls, switchover.MaxWait(time.Minute))
		close(l.switched)
		l.stored(int(l.next.Load()) + 10) // those that have waited
		t.Logf("%v\n%v\nlongest wait of a publisher meanwhile %v", report, report.Phases, time.Duration(l.longest.Load()))
		must(t, err)
		if info := streamInfo(t, b, "LOAD"); info.Config.Replicas != n || len(info.Config.Metadata["_omnibus.moving"]) > 0 {
			t.Errorf("the stream has %d replicas and the metadata %v", info.Config.Replicas, info.Config.Metadata)
		}
		l.stored(int(l.next.Load()) + 500)
		l.end()
	})
}
