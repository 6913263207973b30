package ownership

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/leakcheck"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/settle"
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

// world is a real server with a stream of claims, and a made-up durable: messages
// with keys, and who handled, settled and acknowledged them.
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
	at       map[string][]string // who is at a key
	overlaps []string
	refused  map[string]int // outcomes, by whose
	lost     map[string]int
	troubles []error
	trouble  bool      // there may be some
	fails    error     // what handlers return
	failures []error   // as the owners hear of them
	dirty    time.Time // when an owner ended that drained not
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
		w := &world{t: t, server: s, messages: make(map[string][]*wire.Delivery), acked: make(map[uint64]bool),
			settled: make(map[uint64]string), order: make(map[string][]uint64), handled: make(map[uint64]int),
			at: make(map[string][]string), refused: make(map[string]int), lost: make(map[string]int)}
		l := w.dial(nil)
		var err error
		w.js, err = jetstream.New(l.Conn())
		must(t, err)
		w.declare()
		f(t, w)
		l.Close()
	})
}

// declare makes the stream of the claims.
func (w *world) declare() {
	_, err := w.js.CreateStream(w.t.Context(), jetstream.StreamConfig{Name: StreamOf("S"),
		Subjects: []string{SubjectsOf("S")}, MaxMsgsPerSubject: 1, Storage: jetstream.MemoryStorage})
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
				Stream: "S", Sequence: uint64(w.total), Position: uint64(w.total), Time: time.Unix(int64(w.total), 0), Key: key, Attempt: 1, Deliveries: 1}})
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

// process is a member with a connection of its own.
type process struct {
	*Member
	w    *world
	name string
	link *link.Link
	ice  *ice
	dead chan struct{} // closed when it is killed
}

func (w *world) join(name string, hands int) *process { return w.joinWith(name, hands, ttl) }

func (w *world) joinWith(name string, hands int, ttl time.Duration) *process {
	p := &process{w: w, name: name, ice: &ice{}, dead: make(chan struct{})}
	p.link = w.dial(p.ice.wrap)
	m, err := NewMember(Config{Link: p.link, Stream: names.stream, Durable: names.durable, ID: name, TTL: ttl, Workers: hands, RequestTimeout: 5 * time.Second,
		Run:   p.handle,
		Cause: func(error) string { return "error" },
		Open: func(o *Owner) (Intake, error) {
			return &fake{p: p, owner: o, stop: make(chan struct{})}, nil
		},
		OutcomeRefused: func(*wire.Delivery, error) { w.count(w.refused, name) },
		Lost:           func(error) { w.count(w.lost, name) },
		Failed:         w.troubled,
	})
	must(w.t, err)
	p.Member = m
	m.Start()
	return p
}

func (w *world) troubled(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubles = append(w.troubles, err)
	if !w.trouble {
		w.t.Error(err)
	}
}

func (w *world) count(what map[string]int, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what[name]++
}

func (w *world) fail(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures = append(w.failures, err)
}

// handle is the handler.
func (p *process) handle(d wire.Delivery) settle.Outcome {
	w, key := p.w, d.Subject
	w.mu.Lock()
	w.handled[d.Stored.Sequence]++
	if who := w.at[key]; len(who) > 0 {
		w.overlaps = append(w.overlaps, fmt.Sprintf("%s is at %d of %s, where %v is", p.name, d.Stored.Sequence, key, who))
	}
	w.at[key] = append(w.at[key], p.name)
	w.mu.Unlock()
	select {
	case <-time.After(handler):
	case <-p.dead:
	}
	w.mu.Lock()
	i := slices.Index(w.at[key], p.name)
	w.at[key] = slices.Delete(w.at[key], i, i+1)
	w.mu.Unlock()
	return settle.Outcome{Err: w.fails}
}

func (p *process) leave() {
	p.w.t.Helper()
	must(p.w.t, p.Drain(p.w.t.Context()))
	p.link.Close()
}

func (p *process) kill() {
	p.link.Close()
	close(p.dead)
	p.Member.kill()
}

// kill ends m as the death of its process would: it tells nobody and settles nothing. Its
// handlers go on.
func (m *Member) kill() {
	m.stop()
	<-m.ended
	if owner := m.currentOwner(); owner != nil {
		owner.abandon()
	}
	m.workers.refuseAll()
	m.workers.queue.Stop()
	unsubscribe(m.subs)
}

// fake is an intake over the world's messages. Like a real one it begins with what an
// owner that died had only when the server gives that back.
type fake struct {
	p     *process
	owner *Owner
	stop  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

func (f *fake) Start() {
	w := f.p.w
	w.mu.Lock()
	gate := time.Until(w.dirty.Add(ackWait))
	w.dirty = time.Now() // unless it drains
	w.mu.Unlock()
	for _, key := range w.keys() {
		f.wg.Go(func() {
			select {
			case <-time.After(gate):
				f.lane(key)
			case <-f.stop:
			}
		})
	}
}

// lane handles the messages of a key in order.
func (f *fake) lane(key string) {
	after := uint64(0)
	for {
		select {
		case <-f.stop:
			return
		default:
		}
		d := f.p.w.next(key, after)
		if d == nil {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-f.stop:
			}
			continue
		}
		if !f.one(d) {
			return
		}
		after = d.Stored.Sequence
	}
}

func (f *fake) one(d *wire.Delivery) bool {
	if f.owner.SettledBefore(d) {
		f.ack(d)
		f.owner.SettlementSent(d)
		return true
	}
	o := f.owner.Run(*d)
	if o.Returned {
		return false
	}
	f.p.w.fail(o.Err)
	f.owner.Settle(d, func(ok bool) {
		if !ok {
			return // the owner reports it
		}
		f.p.w.settle(f.p.name, d)
		f.ack(d)
		f.owner.SettlementSent(d)
	})
	return true
}

// ack reaches the server unless the process is dead or frozen, as a real one does.
func (f *fake) ack(d *wire.Delivery) {
	select {
	case <-f.p.dead:
		return
	default:
	}
	f.p.w.mu.Lock()
	defer f.p.w.mu.Unlock()
	f.p.w.acked[d.Stored.Sequence] = true
}

func (f *fake) Confirm(ctx context.Context) error { return f.p.link.Flush(ctx, time.Second) }

func (f *fake) Drain(ctx context.Context) error {
	f.once.Do(func() { close(f.stop) })
	f.owner.Halt()
	f.wg.Wait()
	if err := f.owner.Flush(ctx); err != nil {
		return err
	}
	f.p.w.mu.Lock()
	defer f.p.w.mu.Unlock()
	f.p.w.dirty = time.Time{}
	return nil
}

func (f *fake) Abandon() { f.once.Do(func() { close(f.stop) }) }

func (f *fake) Wait(context.Context) error {
	f.wg.Wait()
	return nil
}

func (f *fake) RunsCaller(context.Context) bool { return false }

// ice freezes the connection of a process: what it sends waits, and so does what it
// is sent. A Write must not wait, since nats.go holds a lock then.
type ice struct {
	mu    sync.Mutex
	thaw  chan struct{} // nil while it is not frozen
	conn  net.Conn
	waits []byte
}

func (i *ice) freeze() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.thaw = make(chan struct{})
}

func (i *ice) melt() {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, _ = i.conn.Write(i.waits)
	close(i.thaw)
	i.thaw, i.waits = nil, nil
}

func (i *ice) wrap(c net.Conn) net.Conn {
	i.conn = c
	return &frozen{c, i}
}

type frozen struct {
	net.Conn
	ice *ice
}

func (f *frozen) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	f.ice.mu.Lock()
	thaw := f.ice.thaw
	f.ice.mu.Unlock()
	if thaw != nil {
		<-thaw
	}
	return n, err
}

func (f *frozen) Write(p []byte) (int, error) {
	f.ice.mu.Lock()
	defer f.ice.mu.Unlock()
	if f.ice.thaw == nil {
		return f.Conn.Write(p)
	}
	f.ice.waits = append(f.ice.waits, p...)
	return len(p), nil
}
