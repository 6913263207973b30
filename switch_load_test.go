package bus_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
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

// handledOnce counts how often each message of a durable was handled for good.
type handledOnce struct {
	name string
	mu   sync.Mutex
	done map[int]int
	last map[string]int // by key
	bad  []string
}

func newHandledOnce(name string) *handledOnce {
	return &handledOnce{name: name, done: make(map[int]int), last: make(map[string]int)}
}

func (h *handledOnce) add(m *bus.Msg[int], keyed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done[m.Data]++
	if keyed && m.Data < h.last[m.Subject] {
		h.bad = append(h.bad, fmt.Sprintf("%s: %d after %d", m.Subject, m.Data, h.last[m.Subject]))
	}
	h.last[m.Subject] = m.Data
}

func (h *handledOnce) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.done)
}

// mustHave checks that all of acked were handled, each once and in order.
func (h *handledOnce) mustHave(t *testing.T, acked map[int]bool) {
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

// switchLoad is what a bus does before, while and after it switches.
type switchLoad struct {
	t       *testing.T
	b       *bus.Bus
	st      *bus.Stream
	handled []*handledOnce
	next    atomic.Int64
	mu      sync.Mutex
	acked   map[int]bool
	seqs    map[uint64]bool
	longest time.Duration // that a PublishTo waited
	replies atomic.Int64
	stop    chan struct{}
	workers sync.WaitGroup
}

var errNotYet = errors.New("not yet")

// newSwitchLoad declares streams and consumers of every kind: with and without keys, with
// retries here and deferred ones, slow handlers, a work queue, memory, and requests.
func newSwitchLoad(t *testing.T, b *bus.Bus) *switchLoad {
	t.Helper()
	l := &switchLoad{t: t, b: b, acked: make(map[int]bool), seqs: make(map[uint64]bool), stop: make(chan struct{})}
	l.st = declare(t, b, bus.StreamConfig{Name: "LOAD", Subjects: []string{"load.*"}})
	retry := bus.Retry(bus.RetryPolicy{MaxAttempts: 5, MinBackoff: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond})
	l.consume(l.st, "plain", retry, false, func(m *bus.Msg[int]) error {
		switch {
		case m.Data%500 == 7:
			time.Sleep(time.Second) // it runs across the switch
		case m.Data%10 == 3 && m.Attempt < 3:
			return errNotYet
		}
		return nil
	})
	l.consume(l.st, "keyed", retry, true, func(m *bus.Msg[int]) error {
		if m.Data%50 == 9 && m.Attempt < 2 {
			return errNotYet
		}
		return nil
	}, bus.KeyBySubject())
	l.consume(l.st, "deferred", bus.Retry(bus.RetryPolicy{MaxAttempts: 3, MinBackoff: 10 * time.Second, MaxBackoff: 10 * time.Second}), false, func(m *bus.Msg[int]) error {
		if m.Data%100 == 5 && m.Attempt < 2 {
			return bus.RetryAfter(3*time.Second, errNotYet)
		}
		return nil
	})
	_, err := bus.Respond(b, bus.Endpoint[int, int]("load-double"), double)
	must(t, err)
	return l
}

// consume counts what a durable handles.
func (l *switchLoad) consume(st *bus.Stream, durable string, retry bus.ConsumeOption, keyed bool, fail func(*bus.Msg[int]) error, opts ...bus.ConsumeOption) {
	l.t.Helper()
	h := newHandledOnce(durable)
	l.handled = append(l.handled, h)
	consume(l.t, st, durable, "load.*", func(_ context.Context, m *bus.Msg[int]) error {
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

// publish stores messages, each key by one publisher, until the load ends.
func (l *switchLoad) publish() {
	id := rand.Int64()
	subject := bus.Subject[int](fmt.Sprintf("load.%d", id))
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		n := int(l.next.Add(1))
		began := time.Now()
		var opts []bus.StoreOption
		if i%2 == 0 {
			opts = append(opts, bus.AutoID())
		}
		ack, err := bus.PublishTo(l.t.Context(), l.st, subject, n, opts...)
		if err != nil {
			l.t.Errorf("PublishTo: %v", err)
			return
		}
		l.mu.Lock()
		l.acked[n] = true
		if l.seqs[ack.Sequence] {
			l.t.Errorf("two messages have the sequence %d", ack.Sequence)
		}
		l.seqs[ack.Sequence] = true
		l.longest = max(l.longest, time.Since(began))
		l.mu.Unlock()
	}
}

// request asks the responder of the bus until the load ends.
func (l *switchLoad) request() {
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		got, err := bus.Request(l.t.Context(), l.b, bus.Endpoint[int, int]("load-double"), 21)
		if err != nil || got != 42 {
			l.t.Errorf("Request = %d, %v", got, err)
			return
		}
		l.replies.Add(1)
	}
}

// await waits until so many messages were stored.
func (l *switchLoad) await(n int) {
	l.t.Helper()
	for began := time.Now(); int(l.next.Load()) < n; time.Sleep(time.Millisecond) {
		if time.Since(began) > 5*time.Minute {
			l.t.Fatalf("only %d of %d messages were stored", l.next.Load(), n)
		}
	}
}

// end ends the load and checks that everything was handled once.
func (l *switchLoad) end() {
	l.t.Helper()
	close(l.stop)
	l.workers.Wait()
	for _, h := range l.handled {
		for began := time.Now(); h.len() < len(l.acked) && time.Since(began) < time.Minute; {
			time.Sleep(10 * time.Millisecond)
		}
		h.mustHave(l.t, l.acked)
	}
	l.t.Logf("%d messages, %d replies, longest PublishTo %v", len(l.acked), l.replies.Load(), l.longest)
}

// A bus switches to a single server and to a cluster while it publishes, handles, retries and
// answers requests. Nothing is lost, handled again, or out of order, and no call fails.
func TestSwitchToUnderLoad(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"one server": 1, "cluster": 3} {
		t.Run(name, func(t *testing.T) {
			if n > 1 {
				needsCluster(t)
			}
			t.Parallel()
			_, urls := servers(t, n)
			dir := t.TempDir()
			b := openOn(t, dir, bus.WithTimeout(time.Minute)) // MaxWait is as long
			l := newSwitchLoad(t, b)
			l.run()
			l.await(switchMessages(t))
			report, err := b.SwitchTo(t.Context(), urls, switchover.MaxWait(time.Minute))
			t.Logf("%v\n%v", report, report.Phases)
			must(t, err)
			if info := streamInfo(t, b, "LOAD"); info.Config.Replicas != n || len(info.Config.Metadata["_omnibus.moving"]) > 0 {
				t.Errorf("the stream has %d replicas and the metadata %v", info.Config.Replicas, info.Config.Metadata)
			}
			l.await(int(l.next.Load()) + 500)
			l.end()
		})
	}
}

// Requests that are under way when the bus switches get their replies: slow ones whose handler
// runs across the switch, those that no handler has begun, and those whose reply is sent just
// when the connection is cut.
func TestSwitchToWithRequestsUnderWay(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := ownBus(t)
	storeNumbers(t, declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}}), 1, 100)
	for name, wait := range map[string]func() time.Duration{
		"slow":  func() time.Duration { return 2 * time.Second },
		"quick": func() time.Duration { return rand.N(200 * time.Millisecond) },
	} {
		_, err := bus.Respond(b, bus.Endpoint[int, int](name), func(_ context.Context, m *bus.Msg[int]) (int, error) {
			time.Sleep(wait())
			return m.Data * 2, nil
		}, bus.Concurrency(256))
		must(t, err)
	}
	var under, done atomic.Int64
	var requesters sync.WaitGroup
	ctx, end := context.WithCancel(t.Context())
	ask := func(name bus.Endpoint[int, int], n int) {
		under.Add(1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if got, err := bus.Request(ctx, b, name, n); err != nil || got != 2*n {
			t.Errorf("Request to %q = %d, %v", name, got, err)
		}
		done.Add(1)
	}
	for n := range 300 {
		requesters.Go(func() { ask("slow", n) })
		requesters.Go(func() {
			for n := n; ctx.Err() == nil; n++ {
				ask("quick", n)
			}
		})
	}
	eventually(t, "they are under way", func() bool { return under.Load() > 1000 })
	report := switchTo(t, b, target.ClientURL())
	late := under.Load() - done.Load()
	end()
	requesters.Wait()
	t.Logf("waited %v; %d requests, of which %d were under way at the end of the switch", report.Waited, done.Load(), late)
}
