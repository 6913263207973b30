package intake_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// quiescable is a Core or a Durable on a real server.
type quiescable interface {
	Quiesce(ctx context.Context) error
	Resume()
	Drain(ctx context.Context) error
	InFlight() int
}

// member is one whose handler counts, and blocks while it is told to.
type member struct {
	quiescable
	t       *testing.T
	publish func(n int)
	handled atomic.Int64
	begun   atomic.Int64
	mu      sync.Mutex
	gate    chan struct{} // handlers wait until it is closed
}

func (m *member) handle() {
	m.begun.Add(1)
	m.mu.Lock()
	gate := m.gate
	m.mu.Unlock()
	if gate != nil {
		<-gate
	}
	m.handled.Add(1)
}

// block has handlers wait, until the function that it returns is called.
func (m *member) block() (release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gate = make(chan struct{})
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		close(m.gate)
		m.gate = nil
	})
}

// await waits until a count is n.
func (m *member) await(what string, count func() int64, n int64) {
	m.t.Helper()
	for end := time.Now().Add(10 * time.Second); count() < n && time.Now().Before(end); {
		time.Sleep(100 * time.Microsecond)
	}
	if got := count(); got != n {
		m.t.Errorf("%s: %d, want %d", what, got, n)
	}
}

func (m *member) quiesced() {
	m.t.Helper()
	if err := m.Quiesce(m.t.Context()); err != nil {
		m.t.Errorf("Quiesce: %v", err)
	}
	if n := m.InFlight(); n != 0 {
		m.t.Errorf("%d handlers run", n)
	}
}

// ended returns a context that has ended, and why.
func ended(t *testing.T) (context.Context, error) {
	reason := errors.New("no time")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	return ctx, reason
}

// eachMember runs f with each kind of member.
func eachMember(t *testing.T, f func(t *testing.T, m *member)) {
	t.Helper()
	for _, concurrency := range []int{1, 4} {
		t.Run(fmt.Sprint("core/", concurrency), func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			f(t, newCoreMember(t, s, concurrency))
		})
		t.Run(fmt.Sprint("durable/", concurrency), func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t, testserver.WithJetStream)
			f(t, newDurableMember(t, s, concurrency))
		})
	}
}

func newCoreMember(t *testing.T, s *testserver.Server, concurrency int) *member {
	from := s.Link(t)
	m := &member{t: t, publish: func(n int) { sent(t, from, n) }}
	m.quiescable = openCore(t, s.Link(t), intake.CoreConfig{Concurrency: concurrency, Run: func(wire.In, int64) { m.handle() }})
	return m
}

func newDurableMember(t *testing.T, s *testserver.Server, concurrency int) *member {
	from := s.Link(t)
	js, err := jetstream.New(from.Conn())
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "C", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	m := &member{t: t, publish: func(n int) { sent(t, from, n) }}
	d := openReal(t, s.Link(t), concurrency, m)
	d.Start()
	m.quiescable = d
	return m
}

// openReal opens a Durable on the consumer C of a real server.
func openReal(t *testing.T, l *link.Link, concurrency int, m *member) *intake.Durable {
	t.Helper()
	d, err := intake.OpenDurable(l, intake.DurableConfig{
		Source:      intake.Source{Next: "$JS.API.CONSUMER.MSG.NEXT.S.C", Info: "$JS.API.CONSUMER.INFO.S.C"},
		Concurrency: concurrency, Window: window, AckWait: 30 * time.Second, Timeout: 5 * time.Second,
		Policy: settle.Policy{MinBackoff: time.Second, MaxBackoff: time.Minute},
		Run: func(wire.Delivery) settle.Outcome {
			m.handle()
			return done
		},
		Settling: func(wire.Delivery, string) func(error) { return func(error) {} },
		Report:   func(err error) { t.Errorf("the consumer reported: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// While it is quiesced no handler begins; then it goes on, and nothing was lost.
func TestQuiesce(t *testing.T) {
	t.Parallel()
	eachMember(t, func(t *testing.T, m *member) {
		m.Resume() // without Quiesce
		m.publish(20)
		m.await("handled", m.handled.Load, 20)
		for range 2 { // twice
			m.quiesced()
		}
		m.publish(20)
		time.Sleep(50 * time.Millisecond)
		if n := m.begun.Load(); n != 20 {
			t.Errorf("%d handlers began while it was quiesced", n-20)
		}
		m.Resume()
		m.Resume()
		m.await("handled", m.handled.Load, 40)
		if err := m.Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
		m.Resume() // after its end
		m.await("handled", m.handled.Load, 40)
	})
}

// When its context ends first, Quiesce says what runs. Nothing begins all the same, and
// what runs is settled.
func TestQuiesceWhileAHandlerRuns(t *testing.T) {
	t.Parallel()
	eachMember(t, func(t *testing.T, m *member) {
		release := m.block()
		defer release()
		m.publish(1)
		m.await("begun", m.begun.Load, 1)
		m.publish(10)
		ctx, reason := ended(t)
		err := m.Quiesce(ctx)
		running, ok := errors.AsType[*dispatch.RunningError](err)
		if !ok || running.Running != m.InFlight() || running.Running < 1 || !errors.Is(err, reason) {
			t.Errorf("got %v, %d run", err, m.InFlight())
		}
		began := m.begun.Load()
		again := make(chan error, 1)
		go func() { again <- m.Quiesce(t.Context()) }()
		select {
		case err := <-again:
			t.Errorf("it did not wait for the handler: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		release()
		if err := <-again; err != nil {
			t.Error(err)
		}
		if n := m.begun.Load(); n != began || m.handled.Load() != n {
			t.Errorf("%d began while it was quiesced, %d of %d were handled", n-began, m.handled.Load(), n)
		}
		m.Resume()
		m.await("handled", m.handled.Load, 11)
		if err := m.Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
	})
}

// Drain while it is quiesced ends it. A subscription handles what has arrived; a consumer
// gives it back, and the next one gets it.
func TestDrainWhileQuiesced(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 4} {
		t.Run(fmt.Sprint("core/", concurrency), func(t *testing.T) {
			t.Parallel()
			m := newCoreMember(t, testserver.New(t), concurrency)
			m.quiesced()
			m.publish(20)
			if err := m.Drain(t.Context()); err != nil {
				t.Errorf("Drain: %v", err)
			}
			m.await("handled", m.handled.Load, 20)
		})
		t.Run(fmt.Sprint("durable/", concurrency), func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t, testserver.WithJetStream)
			m := newDurableMember(t, s, concurrency)
			m.publish(5)
			m.await("handled", m.handled.Load, 5)
			m.quiesced()
			m.publish(20)
			time.Sleep(20 * time.Millisecond) // some may have come
			if err := m.Drain(t.Context()); err != nil {
				t.Errorf("Drain: %v", err)
			}
			if n := m.begun.Load(); n != 5 {
				t.Errorf("%d handlers began", n-5)
			}
			next := openReal(t, s.Link(t), concurrency, m)
			next.Start()
			m.await("handled", m.handled.Load, 25)
			if err := next.Drain(t.Context()); err != nil {
				t.Errorf("Drain: %v", err)
			}
		})
	}
}

// Stop while it is quiesced: a drain that does not wait, and Close of a subscription.
func TestStopWhileQuiesced(t *testing.T) {
	t.Parallel()
	eachMember(t, func(t *testing.T, m *member) {
		m.quiesced()
		m.publish(20)
		ctx, _ := ended(t)
		began := time.Now()
		if core, ok := m.quiescable.(*intake.Core); ok {
			_ = core.Close(ctx)
		} else {
			_ = m.Drain(ctx)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		m.Resume()
		time.Sleep(10 * time.Millisecond)
		if n := m.begun.Load(); n != 0 {
			t.Errorf("%d handlers began", n)
		}
	})
}

// A Durable may be quiesced before Start.
func TestQuiesceBeforeStart(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, testserver.WithJetStream)
	m := newDurableMember(t, s, 1)
	if err := m.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.quiescable = openReal(t, s.Link(t), 1, m)
	m.quiesced()
	m.quiescable.(*intake.Durable).Start()
	m.publish(5)
	time.Sleep(20 * time.Millisecond)
	if n := m.begun.Load(); n != 0 {
		t.Errorf("%d handlers began", n)
	}
	m.Resume()
	m.await("handled", m.handled.Load, 5)
	if err := m.Drain(t.Context()); err != nil {
		t.Errorf("Drain: %v", err)
	}
}

// Many quiesce and resume while messages come: each is handled once.
func TestQuiesceUnderLoad(t *testing.T) {
	t.Parallel()
	eachMember(t, func(t *testing.T, m *member) {
		const publishers, messages = 4, 100
		var publishing, quiescing sync.WaitGroup
		for range publishers {
			publishing.Go(func() {
				for range messages / 10 {
					m.publish(10)
				}
			})
		}
		for i := range 10 {
			quiescing.Go(func() {
				for n := range 50 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration((i+n)%3)*100*time.Microsecond)
					_ = m.Quiesce(ctx)
					cancel()
					m.Resume()
				}
			})
		}
		publishing.Wait()
		quiescing.Wait()
		m.Resume()
		m.await("handled", m.handled.Load, publishers*messages)
		if err := m.Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
		if n := m.handled.Load(); n != publishers*messages {
			t.Errorf("handled %s of %d", strconv.FormatInt(n, 10), publishers*messages)
		}
	})
}

// stopsAtRestore is a Recovery that is asked about a message at the moment when nothing may
// begin any more.
type stopsAtRestore struct {
	handbacks
	stopping chan struct{}
}

func (r *stopsAtRestore) Restore(wire.Delivery) { close(r.stopping) }

// A message whose handler is about to be called, when none may be called any more, waits for
// the drain, which returns it.
func TestDurableBeginsNothingWhileStopping(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 3} {
		t.Run(fmt.Sprintf("batches of %d", size), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := newFakeServer(t)
				r := &stopsAtRestore{stopping: make(chan struct{})}
				d := open(t, o, 1, func(wire.Delivery) settle.Outcome {
					t.Error("a handler is called")
					return done
				}, func(c *intake.DurableConfig) {
					c.Recovery, c.Stopping = r, r.stopping
					if size > 0 {
						c.Batch = intake.Batch{Size: size, Run: func([]wire.Delivery, []settle.Outcome) { t.Error("a handler of batches is called") }}
					}
				})
				d.Start()
				inbox := o.pulled().inbox
				o.send(inbox, 1, 1)
				synctest.Wait()
				o.send(inbox, 2, 1)
				time.Sleep(time.Minute)
				if msgs, _ := d.Pending(); msgs != 2 || d.Begun() != 0 || d.Ended() != 0 {
					t.Errorf("%d messages wait, %d calls have begun and %d ended", msgs, d.Begun(), d.Ended())
				}
				d.drained(t)
				more, all := o.all()
				if len(more) > 0 {
					t.Errorf("it asked for %+v", more)
				}
				returned := 0
				for _, x := range all {
					if x.body == "-NAK 0s" {
						returned++
					}
				}
				if returned != 2 {
					t.Errorf("got %+v", all)
				}
			})
		})
	}
}
