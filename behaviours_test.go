package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/internal/serverversion"
	"github.com/omnibus-go/bus/stats"
)

// place is where a behaviour is tried: programs in one mode, or on one version of the server.
type place struct {
	bus    *bus.Bus
	peer   *bus.Bus                  // of another program, which messages reach; bus where there is none
	twin   *bus.Bus                  // of another program, which uses the same streams; bus where there is none
	reopen func(*testing.T) *bus.Bus // closes bus, starts its program again, and returns the new one
	node   bool                      // bus is a node of a cluster of programs
}

// behaviours are what every mode and every version of the server does. Each uses streams and
// subjects of its own, so all run at the same time.
var behaviours = map[string]func(*testing.T, *place){
	"publish":      behavesPublish,
	"queue groups": behavesQueueGroups,
	"request":      behavesRequest,
	"streams":      behavesStreams,
	"raw":          behavesRaw,
	"conditions":   behavesConditions,
	"consume":      behavesConsume,
	"dead letters": behavesDeadLetters,
	"keys":         behavesKeys,
	"replay":       behavesReplay,
	"follow":       behavesFollow,
	"pause":        behavesPause,
	"batch":        behavesBatch,
	"health":       behavesHealth,
}

// tryBehaviours tries all of them.
func tryBehaviours(t *testing.T, p *place) {
	for name, try := range behaviours {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			try(t, p)
		})
	}
}

// offers reports whether the server has what f needs.
func (p *place) offers(t *testing.T, f serverversion.Feature) bool {
	t.Helper()
	return p.version(t).AtLeast(f.Since)
}

// version returns that of the server.
func (p *place) version(t *testing.T) serverversion.Version {
	t.Helper()
	v, ok := serverversion.Parse(p.bus.Conn().ConnectedServerVersion())
	if !ok {
		t.Fatalf("the server has the version %q", p.bus.Conn().ConnectedServerVersion())
	}
	return v
}

// same returns the stream for twin. In a cluster its server may not know yet what another one has
// made.
func (p *place) same(t *testing.T, name string) (st *bus.Stream) {
	t.Helper()
	within(t, clusterPatience, "the stream is known", func() bool {
		var err error
		if st, err = p.twin.LookupStream(t.Context(), name); !errors.Is(err, bus.ErrStreamNotFound) {
			must(t, err)
		}
		return err == nil
	})
	return st
}

// both calls try with the two directions between bus and peer.
func (p *place) both(try func(name string, from, to *bus.Bus)) {
	try("there", p.bus, p.peer)
	try("back", p.peer, p.bus)
}

// probe is the payload of messages that only find out whether a subscription is known.
const probe = -1

// awaitInterest publishes probes until one arrives: interest takes time to spread.
func awaitInterest(t *testing.T, from *bus.Bus, s bus.Subject[int], got <-chan int) {
	t.Helper()
	within(t, clusterPatience, "the subscription is known", func() bool {
		must(t, bus.Publish(t.Context(), from, s, probe))
		must(t, from.Flush(t.Context()))
		return len(got) > 0
	})
}

// nextAfterProbes returns the next value that is no probe.
func nextAfterProbes(t *testing.T, got <-chan int) int {
	t.Helper()
	for {
		if n := receive(t, got); n != probe {
			return n
		}
	}
}

func behavesPublish(t *testing.T, p *place) {
	p.both(func(name string, from, to *bus.Bus) {
		handle, got := collect[int](100_000)
		_, err := bus.Subscribe(to, bus.Subject[int]("core."+name+".*"), handle)
		must(t, err)
		subject := bus.Subject[int]("core." + name + ".x")
		awaitInterest(t, from, subject, got)
		for i := range 100 {
			must(t, bus.Publish(t.Context(), from, subject, i))
		}
		must(t, from.Flush(t.Context()))
		for i := 100; i < 200; i++ {
			must(t, bus.PublishAsync(t.Context(), from, subject, i))
		}
		for i := range 200 {
			if n := nextAfterProbes(t, got); n != i {
				t.Fatalf("%s: received %d, want %d", name, n, i)
			}
		}
	})
}

// Each message reaches one member of the group, and all other subscribers.
func behavesQueueGroups(t *testing.T, p *place) {
	const each = 100
	work, plain := make(chan int, 100_000), make(chan int, 100_000)
	subscribe := func(b *bus.Bus, to chan<- int, opts ...bus.SubscribeOption) {
		must(t, second(bus.Subscribe(b, bus.Subject[int]("group.*"), func(_ context.Context, m *bus.Msg[int]) error { to <- m.Data; return nil }, opts...)))
	}
	for _, b := range []*bus.Bus{p.bus, p.peer} {
		subscribe(b, work, bus.Queue("workers"))
	}
	subscribe(p.bus, plain)
	for i, b := range []*bus.Bus{p.bus, p.peer} {
		awaitInterest(t, b, "group.x", plain)
		awaitInterest(t, b, "group.x", work)
		for n := range each {
			must(t, bus.Publish(t.Context(), b, bus.Subject[int]("group.x"), i*each+n))
		}
		must(t, b.Flush(t.Context()))
	}
	for name, got := range map[string]chan int{"the group": work, "the subscriber": plain} {
		var all []int
		for range 2 * each {
			all = append(all, nextAfterProbes(t, got))
		}
		if slices.Sort(all); len(slices.Compact(all)) != 2*each {
			t.Errorf("%s received %v", name, all)
		}
	}
}

// Responders on several buses share the requests. An error of theirs comes back.
func behavesRequest(t *testing.T, p *place) {
	double := bus.Endpoint[int, int]("core-double")
	isError(t, second(bus.Request(t.Context(), p.bus, double, 21)), bus.ErrNoResponders)
	var answered atomic.Int64
	for _, b := range []*bus.Bus{p.bus, p.peer, p.bus} {
		_, err := bus.Respond(b, double, func(_ context.Context, m *bus.Msg[int]) (int, error) {
			if m.Data < 0 {
				return 0, bus.Public("400", "negative")
			}
			answered.Add(1)
			return 2 * m.Data, nil
		}, bus.Concurrency(4))
		must(t, err)
	}
	p.both(func(name string, from, _ *bus.Bus) {
		within(t, clusterPatience, "a responder is known", func() bool {
			_, err := bus.Request(t.Context(), from, double, 0)
			return !errors.Is(err, bus.ErrNoResponders)
		})
		before := answered.Load()
		for i := range 30 {
			if n, err := bus.Request(t.Context(), from, double, i); n != 2*i || err != nil {
				t.Fatalf("%s: the reply is %d, %v", name, n, err)
			}
		}
		if n := answered.Load() - before; n != 30 {
			t.Errorf("%s: 30 requests were answered %d times", name, n)
		}
		asError[*bus.RemoteError](t, second(bus.Request(t.Context(), from, double, -1)), "negative")
	})
}

func behavesStreams(t *testing.T, p *place) {
	config := bus.StreamConfig{Name: "STREAMS", Subjects: []string{"streams.>"}, MaxMsgs: 1000, Revision: 5, Metadata: map[string]string{"team": "a"}}
	declare(t, p.bus, config)
	config.MaxMsgs, config.Revision = 2000, 3
	st := declare(t, p.twin, config)
	js, err := p.bus.JetStream().Stream(t.Context(), "STREAMS")
	must(t, err)
	if c := js.CachedInfo().Config; c.MaxMsgs != 1000 || c.Metadata["team"] != "a" || !c.AllowDirect {
		t.Errorf("after an older revision it has %+v", c)
	}
	config.MaxMsgs, config.Revision = 10, 6
	asError[*bus.StreamConflictError](t, second(p.bus.Stream(t.Context(), config)), "MaxMsgs")
	for i := range 5 {
		must(t, second(bus.PublishTo(t.Context(), st, "streams.x", i)))
	}
	if n, err := st.Purge(t.Context(), bus.PurgeFilter{Keep: 2}); n != 3 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	must(t, st.Delete(t.Context()))
	isError(t, second(p.bus.LookupStream(t.Context(), "STREAMS")), bus.ErrStreamNotFound)
	for name, storage := range map[string]bus.Storage{"MEMORY": bus.MemoryStorage, "DEFAULT": 0} {
		st := declare(t, p.bus, bus.StreamConfig{Name: "IN" + name, Subjects: []string{"in" + name}, Storage: storage})
		storeRange(t, st, bus.Subject[int]("in"+name), 0, 5)
		same := p.same(t, "IN"+name)
		if got := values(replayed(t, same, bus.Subject[int]("in"+name))); !slices.Equal(got, []int{0, 1, 2, 3, 4}) {
			t.Errorf("%s: read %v", name, got)
		}
	}
}

// Fields that only Raw sets are refused too, and not left out.
func behavesRaw(t *testing.T, p *place) {
	for name, field := range map[string]struct {
		since int // minor version
		set   func(*jetstream.StreamConfig)
	}{
		"Markers":   {11, func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = time.Minute }},
		"Counters":  {12, func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true }},
		"Schedules": {12, func(c *jetstream.StreamConfig) { c.AllowMsgSchedules = true }},
		"Persist": {12, func(c *jetstream.StreamConfig) {
			if c.Storage == jetstream.FileStorage { // it is about files
				c.PersistMode, c.Replicas = jetstream.AsyncPersistMode, 1
			}
		}},
		"Ingest": {14, func(c *jetstream.StreamConfig) { c.AllowBatchPublish = true }},
		"Transform": {10, func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "raw.Transform.>", Destination: "raw.Transform.x.>"}
		}},
		"FirstSeq": {10, func(c *jetstream.StreamConfig) { c.FirstSeq = 100 }},
	} {
		_, err := p.bus.Stream(t.Context(), bus.StreamConfig{Name: "RAW" + name, Subjects: []string{"raw." + name + ".>"}, Raw: field.set})
		if p.version(t).Minor >= field.since {
			must(t, err)
			continue
		}
		if e := asError[*bus.UnsupportedError](t, err, "use nats-server 2."); e.Version != fmt.Sprint("2.", field.since) || e.Changed {
			t.Errorf("%s: got %+v", name, e)
		}
		isError(t, second(p.bus.LookupStream(t.Context(), "RAW"+name)), bus.ErrStreamNotFound)
	}
}

func behavesConditions(t *testing.T, p *place) {
	st := declare(t, p.bus, bus.StreamConfig{Name: "CONDITIONS", Subjects: []string{"conditions.*"}})
	same := p.same(t, "CONDITIONS")
	store := func(s bus.Subject[int], opts ...bus.StoreOption) (*bus.Ack, error) {
		return bus.PublishTo(t.Context(), st, s, 1, opts...)
	}
	first, err := store("conditions.a", bus.MsgID("one"), bus.ExpectLastSequence(0))
	must(t, err)
	if again, err := bus.PublishTo(t.Context(), same, bus.Subject[int]("conditions.a"), 1, bus.MsgID("one")); err != nil || !again.Duplicate || again.Sequence != first.Sequence {
		t.Errorf("once more: %+v, %v", again, err)
	}
	if again, err := store("conditions.a", bus.MsgID("one"), bus.ExpectLastSequence(0)); err != nil || !again.Duplicate {
		t.Errorf("once more with its expectation: %+v, %v", again, err)
	}
	must(t, second(store("conditions.b", bus.AutoID())))
	asError[*bus.ConflictError](t, second(store("conditions.a", bus.ExpectLastSequence(1))))
	asError[*bus.ConflictError](t, second(store("conditions.b", bus.ExpectLastSubjectSequence(1))))
	if p.offers(t, serverversion.ExpectLastSequenceOf) {
		if e := asError[*bus.ConflictError](t, second(store("conditions.c", bus.ExpectLastSequenceOf("conditions.*", 1)))); e.Actual != 2 {
			t.Errorf("got %+v", e)
		}
	}
	future, err := bus.PublishToAsync(t.Context(), st, "conditions.a", 1)
	must(t, err)
	if ack, err := future.Wait(t.Context()); err != nil || ack.Sequence != 3 {
		t.Errorf("got %+v, %v", ack, err)
	}
}

func behavesConsume(t *testing.T, p *place) {
	st := declare(t, p.bus, bus.StreamConfig{Name: "CONSUME", Subjects: []string{"consume.>"}})
	same := p.same(t, "CONSUME")
	var mux bus.Mux
	got := make(chan *bus.Msg[int], 100)
	take := func(_ context.Context, m *bus.Msg[int]) error {
		if m.Data%5 == 0 && m.Attempt < 3 {
			return errors.New("not yet")
		}
		got <- m
		return nil
	}
	bus.Handle(&mux, "consume.a", take)
	bus.Handle(&mux, "consume.b.*", take)
	var con *bus.Consumer
	for _, st := range []*bus.Stream{st, same} {
		var err error
		con, err = st.Consume(t.Context(), "d", &mux, bus.Retry(bus.RetryPolicy{MinBackoff: 20 * time.Millisecond}), bus.Concurrency(4))
		must(t, err)
	}
	for i := range 30 {
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[int]([]string{"consume.a", "consume.b.x", "consume.c"}[i%3]), i)
		must(t, err)
	}
	var all []int
	for range 20 {
		m := receive(t, got)
		if all = append(all, m.Data); m.Data%5 == 0 && m.Attempt != 3 {
			t.Errorf("%d was handled at attempt %d", m.Data, m.Attempt)
		}
	}
	if slices.Sort(all); len(slices.Compact(all)) != 20 {
		t.Errorf("handled %v", all)
	}
	within(t, clusterPatience, "all is settled", func() bool {
		l, err := con.Lag(t.Context())
		return err == nil && l.Waiting+l.Unfinished == 0
	})
	must(t, con.Drain(t.Context()))
}

func behavesDeadLetters(t *testing.T, p *place) {
	st := declare(t, p.bus, bus.StreamConfig{Name: "DEAD", Subjects: []string{"dead.*"}})
	h := newMendable[int]()
	consume(t, st, "d", "dead.*", h.handle)
	storeRange(t, st, "dead.x", 0, 20)
	same := p.same(t, "DEAD")
	count := func() int {
		n, err := same.DeadCount(t.Context(), bus.DeadFilter{})
		must(t, err)
		return n
	}
	within(t, clusterPatience, "all are dead letters", func() bool { return count() == 20 })
	listed := 0
	for l, err := range same.DeadLetters(t.Context(), bus.DeadFilter{Durable: "d"}) {
		must(t, err)
		if listed++; l.Sequence != uint64(listed) {
			t.Errorf("number %d is of message %d", listed, l.Sequence)
		}
	}
	if n, err := same.Discard(t.Context(), bus.DeadFilter{Sequence: 1}); n != 1 || err != nil || listed != 20 {
		t.Errorf("%d listed, %d discarded, %v", listed, n, err)
	}
	h.mended.Store(true)
	if n, err := same.Redrive(t.Context(), bus.DeadFilter{}); n != 19 || err != nil {
		t.Errorf("%d redriven, %v", n, err)
	}
	for range 19 {
		receive(t, h.got)
	}
	within(t, clusterPatience, "no dead letters are left", func() bool { return count() == 0 }) // a replica may count
}

// Two programs share a durable with keys.
func behavesKeys(t *testing.T, p *place) {
	if !p.offers(t, serverversion.SharedKeys) {
		return // the table has it
	}
	st := declare(t, p.bus, bus.StreamConfig{Name: "KEYS", Subjects: []string{"keys.*"}})
	var order keyOrder
	consume(t, st, "d", "keys.*", order.handler(t, "first"), bus.KeyBySubject(), bus.Concurrency(4), bus.AckWait(2*time.Second))
	if p.twin != p.bus {
		same := p.same(t, "KEYS")
		consume(t, same, "d", "keys.*", order.handler(t, "second"), bus.KeyBySubject(), bus.Concurrency(4), bus.AckWait(2*time.Second))
	}
	var latest *bus.Future
	for i := range 200 {
		var err error
		latest, err = bus.PublishToAsync(t.Context(), st, bus.Subject[int](fmt.Sprint("keys.", i%10)), i)
		must(t, err)
	}
	must(t, second(latest.Wait(t.Context())))
	within(t, clusterPatience, "all are handled", func() bool { return order.count("first")+order.count("second") == 200 })
}

func behavesReplay(t *testing.T, p *place) {
	for _, retention := range []bus.Retention{bus.LimitsRetention, bus.WorkQueueRetention} {
		st := declare(t, p.bus, bus.StreamConfig{Name: fmt.Sprint("REPLAY", retention), Subjects: []string{fmt.Sprintf("replay%v.*", retention)}, Retention: retention})
		middle := storeThirds(t, st, fmt.Sprintf("replay%v.", retention), 300)
		all := bus.Subject[int](st.Subjects()[0])
		third := bus.Subject[int](fmt.Sprintf("replay%v.2", retention))
		for _, tc := range []struct {
			name    string
			subject bus.Subject[int]
			opts    []bus.ReplayOption
			first   int
			many    int
		}{
			{"all", all, nil, 0, 300},
			{"a third", third, nil, 2, 100},
			{"the last", all, []bus.ReplayOption{bus.Last(1)}, 299, 1},
			{"the last 50", all, []bus.ReplayOption{bus.Last(50)}, 250, 50},
			{"the last 7 of a third", third, []bus.ReplayOption{bus.Last(7)}, 281, 7},
			{"more than there are", third, []bus.ReplayOption{bus.Last(1000)}, 2, 100},
			{"from a sequence", all, []bus.ReplayOption{bus.StartAtSequence(101)}, 100, 200},
			{"from a time", all, []bus.ReplayOption{bus.StartAtTime(middle)}, 150, 150},
		} {
			got := values(replayed(t, st, tc.subject, tc.opts...))
			if len(got) != tc.many || got[0] != tc.first || !slices.IsSorted(got) {
				t.Errorf("%v, %s: read %v", retention, tc.name, got)
			}
		}
	}
}

// storeThirds stores n numbers on three subjects. It returns a time before the second half.
func storeThirds(t *testing.T, st *bus.Stream, prefix string, n int) (middle time.Time) {
	t.Helper()
	for i := range n {
		future, err := bus.PublishToAsync(t.Context(), st, bus.Subject[int](fmt.Sprint(prefix, i%3)), i)
		must(t, err)
		if i == n/2-1 || i == n-1 {
			must(t, second(future.Wait(t.Context())))
		}
		if i == n/2-1 {
			middle = time.Now()
		}
	}
	return middle
}

// Follow goes on with what another program stores.
func behavesFollow(t *testing.T, p *place) {
	st := declare(t, p.bus, bus.StreamConfig{Name: "FOLLOW", Subjects: []string{"follow"}})
	storeRange(t, st, "follow", 0, 3)
	same := p.same(t, "FOLLOW")
	next := 1
	for m, err := range bus.Replay(t.Context(), st, bus.Subject[int]("follow"), bus.Last(2), bus.Follow()) {
		must(t, err)
		if m.Data != next {
			t.Fatalf("read %d, want %d", m.Data, next)
		}
		if next++; next == 6 {
			break
		}
		if next >= 3 {
			storeRange(t, same, "follow", next, next+1)
		}
	}
}

func behavesPause(t *testing.T, p *place) {
	if !p.offers(t, serverversion.Pause) {
		return // the table has it
	}
	st := declare(t, p.bus, bus.StreamConfig{Name: "PAUSE", Subjects: []string{"pause.*"}})
	handle, got := collect[int](100)
	con := consume(t, st, "d", "pause.*", handle, bus.AckWait(2*time.Second))
	storeRange(t, st, "pause.x", 1, 2)
	receive(t, got)
	must(t, con.Pause(t.Context(), time.Time{}))
	within(t, clusterPatience, "it is paused", func() bool {
		l, err := con.Lag(t.Context())
		return err == nil && !l.PausedUntil.IsZero() && l.Unfinished == 0
	})
	must(t, con.Resume(t.Context()))
	storeRange(t, st, "pause.x", 2, 3)
	receive(t, got)
	if !p.offers(t, serverversion.Rewind) {
		return
	}
	slow := 0
	for range 3 {
		must(t, con.Rewind(t.Context(), bus.StartAtFirst()))
		began := time.Now()
		if first, then := wait(t, got, "one of them again"), wait(t, got, "the other one again"); first+then != 3 {
			t.Errorf("after Rewind %d and %d were handled", first, then)
		}
		if time.Since(began) > 4*time.Second {
			slow++
		}
	}
	if slow > 1 { // once it can be an election
		t.Errorf("after %d of 3 rewinds the messages took more than 4 s: the server sent them with its next heartbeat", slow)
	}
}

func behavesBatch(t *testing.T, p *place) {
	if !p.offers(t, serverversion.PublishToBatch) {
		return // the table has it
	}
	st := declare(t, p.bus, bus.StreamConfig{Name: "BATCH", Subjects: []string{"batch.*"}, AtomicBatches: true})
	item := func(n int, opts ...bus.StoreOption) bus.Item {
		return bus.ItemOf(bus.Subject[int](fmt.Sprint("batch.", n)), n, opts...)
	}
	asError[*bus.ConflictError](t, second(bus.PublishToBatch(t.Context(), st, item(1), item(2, bus.ExpectLastSubjectSequence(77)), item(3))))
	ack, err := bus.PublishToBatch(t.Context(), st, item(1, bus.MsgID("one")), item(2), item(3))
	if err != nil || ack.First != 1 || ack.Sequence != 3 {
		t.Errorf("got %+v, %v", ack, err)
	}
	if again, err := bus.PublishToBatch(t.Context(), st, item(1, bus.MsgID("one")), item(2), item(3)); err != nil || !again.Duplicate {
		t.Errorf("once more: %+v, %v", again, err)
	}
}

// Health and Stats say what is so. Others fail on purpose at the same time, so nothing is said
// of what Health thinks of consumers.
func behavesHealth(t *testing.T, p *place) {
	handle, got := collect[int](10)
	_, err := bus.Subscribe(p.bus, bus.Subject[int]("health.*"), handle)
	must(t, err)
	before := p.bus.Stats()
	publishRange(t, p.bus, "health.x", 0, 10)
	for range 10 {
		receive(t, got)
	}
	var of stats.Subscription
	within(t, clusterPatience, "all are counted", func() bool {
		for _, s := range p.bus.Stats().Subscriptions {
			if s.Subject == "health.*" {
				of = s
			}
		}
		return of.Handled == 10
	})
	if after := p.bus.Stats(); of.Received != 10 || of.HandlerErrors != 0 || after.Published < before.Published+10 || after.PublishedBytes <= before.PublishedBytes {
		t.Errorf("the subscription has %+v, the bus %+v", of, after)
	}
	var r health.Report
	within(t, clusterPatience, "it works", func() bool { // a node says so when a stream that was just made has a leader
		r = p.bus.Health(t.Context())
		return r.Status != health.Failed
	})
	if r.Server == "" || r.RTT <= 0 {
		t.Errorf("got %+v", r)
	}
	for _, problem := range r.Problems {
		if problem.Part != "consumer" {
			t.Errorf("got %+v", problem)
		}
	}
}

// late are the options of the consumer whose work a program leaves behind. A server with leaf
// nodes may send what falls due within two seconds of the drain to nobody; then it comes after
// AckWait.
var late = []bus.ConsumeOption{bus.Retry(bus.RetryPolicy{MinBackoff: 2 * time.Second, MaxBackoff: 2 * time.Second}), bus.AckWait(2 * time.Second)}

// clusterPatience is how long to wait for what a cluster does after a moment without a leader.
const clusterPatience = 30 * time.Second

// leaveWork stores ten messages whose first attempt fails, and ends their consumer. What waits
// for its retry outlives that, and the program where messages do.
func leaveWork(t *testing.T, b *bus.Bus) {
	t.Helper()
	st := declare(t, b, bus.StreamConfig{Name: "WORK", Subjects: []string{"work.*"}})
	storeRange(t, st, "work.late", 0, 10)
	var failed atomic.Int32
	con := consume(t, st, "late", "work.late", func(context.Context, *bus.Msg[int]) error { failed.Add(1); return errNo }, late...)
	within(t, clusterPatience, "each has failed", func() bool { return failed.Load() >= 10 })
	must(t, con.Drain(t.Context()))
}

// finishWork handles what leaveWork left.
func finishWork(t *testing.T, b *bus.Bus) {
	t.Helper()
	st, err := b.LookupStream(t.Context(), "WORK")
	must(t, err)
	var done ledger
	again := 0
	con := consume(t, st, "late", "work.late", func(_ context.Context, m *bus.Msg[int]) error {
		if m.Attempt > 1 {
			again++
		}
		done.note(m.Sequence)
		return nil
	}, late...)
	within(t, clusterPatience, "all are handled", func() bool { return done.distinct() == 10 })
	must(t, con.Drain(t.Context()))
	if done.mustBeOnce(t, 10); again != 10 {
		t.Errorf("of 10 retries %d were attempts after the first one", again)
	}
}

// startAgain closes the bus while a handler runs and messages wait for it, and starts the
// program again. It reports whether the messages are still there; then all of them are
// handled, each once.
func startAgain(t *testing.T, p *place) (kept bool) {
	t.Helper()
	st, err := p.bus.LookupStream(t.Context(), "WORK")
	must(t, err)
	var before, after ledger
	began := make(chan struct{}, 10)
	consume(t, st, "held", "work.held", func(ctx context.Context, m *bus.Msg[int]) error {
		began <- struct{}{}
		<-bus.Stopping(ctx)
		before.note(m.Sequence)
		return nil
	}, bus.AckWait(2*time.Second))
	storeRange(t, st, "work.held", 0, 10)
	receive(t, began)
	b := p.reopen(t)
	st, err = b.LookupStream(t.Context(), "WORK")
	if errors.Is(err, bus.ErrStreamNotFound) {
		return false
	}
	must(t, err)
	finishWork(t, b)
	con := consume(t, st, "held", "work.held", after.handle, bus.AckWait(2*time.Second))
	within(t, clusterPatience, "the others are handled", func() bool { return before.distinct()+after.distinct() >= 10 })
	must(t, con.Drain(t.Context()))
	if got := append(before.sequences(), after.sequences()...); !slices.Equal(slices.Sorted(slices.Values(got)), upTo(20)[10:]) {
		t.Errorf("the bus handled %v, and %v after the restart", before.sequences(), after.sequences())
	}
	mustHold(t, b, "WORK", 1, 20)
	return true
}
