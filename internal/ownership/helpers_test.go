package ownership

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/leakcheck"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

const (
	ackWait = 6 * time.Second
	ttl     = ackWait / 3
	handler = 50 * time.Millisecond
)

var names = subjects{stream: "S", durable: "d"}

// world is a real server with the stream of the leases, and a simulated durable: its
// messages with keys, and who handled, settled and acknowledged them.
type world struct {
	t      *testing.T
	server *testserver.Server
	js     jetstream.JetStream

	mu       sync.Mutex
	messages map[string][]*wire.Delivery // by key, in order
	total    int
	acked    map[uint64]bool
	settled  map[uint64]string // by whom
	order    map[string][]uint64
	handled  map[uint64]int
	running  map[string][]string // who runs a key
	overlaps []string
	refused  map[string]int // outcomes, by member
	reasons  []error        // of those
	lost     map[string]int // leases, by member
	reported []error        // by Config.Failed
	mayFail  bool           // those are expected
	fails    error          // what handlers return
	failures []error        // of handlers, as the owners see them
	ackWait  time.Duration  // of the durable
	startsAt time.Time      // when the server redelivers what an owner had that did not drain
}

// inWorld runs f in virtual time.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	inWorldWith(t, 1<<20, f)
}

// inWorldWith has a server with a limit for messages.
func inWorldWith(t *testing.T, maxPayload int32, f func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	testserver.Bubble(t, func(t *testing.T) {
		s := testserver.New(t, testserver.WithJetStream, func(o *server.Options) { o.MaxPayload = maxPayload })
		w := &world{t: t, server: s, ackWait: ackWait, messages: make(map[string][]*wire.Delivery), acked: make(map[uint64]bool),
			settled: make(map[uint64]string), order: make(map[string][]uint64), handled: make(map[uint64]int),
			running: make(map[string][]string), refused: make(map[string]int), lost: make(map[string]int)}
		l := w.dial(nil)
		var err error
		w.js, err = jetstream.New(l.Conn())
		must(t, err)
		w.declare()
		f(t, w)
		l.Close()
	})
}

// declare creates the stream of the leases.
func (w *world) declare() {
	_, err := w.js.CreateStream(w.t.Context(), jetstream.StreamConfig{Name: sidestream.KeysStream("S"),
		Subjects: []string{sidestream.Pattern(sidestream.Keys, "S")}, MaxMsgsPerSubject: 1, Storage: jetstream.MemoryStorage})
	must(w.t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) dial(wrap func(net.Conn) net.Conn) *link.Link {
	return testserver.Dial(w.t, func() (net.Conn, error) {
		c, err := w.server.InProcessConn()
		if err == nil && wrap != nil {
			c = wrap(c)
		}
		return c, err
	})
}

// publish adds n messages of each of so many keys.
func (w *world) publish(keys, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range n {
		for k := range keys {
			w.total++
			key := fmt.Sprint("k", k)
			w.messages[key] = append(w.messages[key], &wire.Delivery{In: wire.In{Subject: "s." + key, Data: []byte("x")}, Stored: &wire.Stored{
				Stream: "S", Sequence: uint64(w.total), SourceSequence: uint64(w.total), Time: time.Unix(int64(w.total), 0), Key: key, Attempt: 1, Deliveries: 1}})
		}
	}
}

// next is the first message of a key that is not acknowledged, after a sequence.
func (w *world) next(key string, after uint64) *wire.Delivery {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.messages[key] {
		if d.Stored.Sequence > after && !w.acked[d.Stored.Sequence] {
			return d
		}
	}
	return nil
}

func (w *world) keys() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var keys []string
	for k := range w.messages {
		keys = append(keys, k)
	}
	return keys
}

func (w *world) settle(by string, d *wire.Delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seq := d.Stored.Sequence
	if before, twice := w.settled[seq]; twice {
		w.t.Errorf("message %d is settled by %s and by %s", seq, before, by)
	}
	w.settled[seq] = by
	if o := w.order[d.Stored.Key]; len(o) > 0 && o[len(o)-1] > seq {
		w.t.Errorf("%s is settled out of order: %d after %d", d.Stored.Key, seq, o[len(o)-1])
	}
	w.order[d.Stored.Key] = append(w.order[d.Stored.Key], seq)
}

func (w *world) done() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked) == w.total
}

// await waits until all is acknowledged.
func (w *world) await() {
	w.t.Helper()
	for range 6000 {
		if w.done() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Fatalf("%d of %d messages are acknowledged", len(w.acked), w.total)
}

func (w *world) report(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reported = append(w.reported, err)
	if !w.mayFail {
		w.t.Error(err)
	}
}

func (w *world) currentAckWait() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ackWait
}

func (w *world) count(what map[string]int, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what[name]++
}

func (w *world) refuse(name string, why error) {
	w.count(w.refused, name)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reasons = append(w.reasons, why)
}

func (w *world) fail(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures = append(w.failures, err)
}

// mustNotOverlap fails the test if a key was handled in two places at once.
func (w *world) mustNotOverlap() {
	w.t.Helper()
	for _, o := range w.overlaps {
		w.t.Error(o)
	}
}

// stores are two processes that look at one lease, without members.
func (w *world) stores() (a, b *store, end func()) {
	la, lb := w.dial(nil), w.dial(nil)
	return &store{subjects: names, link: la}, &store{subjects: names, link: lb}, func() {
		la.Close()
		lb.Close()
	}
}
