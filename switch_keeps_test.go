package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
)

// whatWaits is what waits in the streams of a bus: messages of a paused durable, deferred ones, dead
// letters with those of their key behind them, and a scheduled message.
type whatWaits struct {
	s, schedules                     *bus.Stream
	paused                           *bus.Consumer
	fails                            atomic.Bool // what becomes a dead letter
	afterPause, deferred, keyed, due chan int    // what was handled
}

func newWhatWaits() *whatWaits {
	w := &whatWaits{afterPause: make(chan int, 1000), deferred: make(chan int, 1000), keyed: make(chan int, 1000), due: make(chan int, 1000)}
	w.fails.Store(true)
	return w
}

// consume declares the streams and begins to consume. It is called once for each start of the bus.
func (w *whatWaits) consume(t *testing.T, b *bus.Bus) {
	t.Helper()
	w.s = declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	w.paused = consume(t, w.s, "paused", "s.*", into(w.afterPause), bus.KeyBySubject())
	consume(t, w.s, "deferring", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		if m.Data <= 5 && m.Attempt == 1 {
			return bus.RetryAfter(31*time.Second, errNotYet) // the retry stream has what waits for longer than 30 s
		}
		w.deferred <- m.Data
		return nil
	})
	consume(t, w.s, "keyed", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		if w.fails.Load() && m.Data == 4 {
			return bus.Permanent(errNo)
		}
		w.keyed <- m.Data
		return nil
	}, bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyFollows))
	w.schedules = declare(t, b, bus.StreamConfig{Name: "AT", Subjects: []string{"at.*", "due.*"}, MessageTTL: true,
		Raw: func(c *jetstream.StreamConfig) { c.AllowMsgSchedules = true }})
	consume(t, w.schedules, "due", "due.*", into(w.due))
}

// into returns a handler that passes numbers on.
func into(handled chan<- int) bus.Handler[int] {
	return func(_ context.Context, m *bus.Msg[int]) error { handled <- m.Data; return nil }
}

// schedule has the server store 7 in a while, and remove 8 about then.
func (w *whatWaits) schedule(t *testing.T) {
	t.Helper()
	const later = 15 * time.Second
	must(t, second(bus.PublishTo(t.Context(), w.schedules, bus.Subject[int]("at.a"), 7, bus.WithHeader("Nats-Schedule-Target", "due.a"),
		bus.WithHeader("Nats-Schedule", "@at "+time.Now().Add(later).UTC().Format(time.RFC3339)))))
	must(t, second(bus.PublishTo(t.Context(), w.schedules, bus.Subject[int]("due.b"), 8, bus.TTL(later))))
	if n := receive(t, w.due); n != 8 {
		t.Errorf("%d came before its time", n)
	}
}

// deadUntil waits until so many messages are dead letters.
func (w *whatWaits) deadUntil(t *testing.T, n int) {
	t.Helper()
	within(t, time.Minute, fmt.Sprintf("there are %d dead letters", n), func() bool { return len(deadLetters(t, w.s, bus.DeadFilter{})) == n })
}

// mustHaveWaited checks that what waited is handled in the end, each once: 60 numbers of s.
func (w *whatWaits) mustHaveWaited(t *testing.T, b *bus.Bus) {
	t.Helper()
	within(t, time.Minute, "what is not deferred is handled", func() bool { return len(w.deferred) >= 55 })
	if lag, err := w.paused.Lag(t.Context()); err != nil || lag.PausedUntil.IsZero() || lag.Waiting != 60 || len(w.afterPause) > 0 {
		t.Errorf("the paused durable: %+v, %v, %d were handled", lag, err, len(w.afterPause))
	}
	must(t, w.paused.Resume(t.Context()))
	w.fails.Store(false)
	if n, err := w.s.Redrive(t.Context(), bus.DeadFilter{}); err != nil || n != 19 {
		t.Errorf("Redrive = %d, %v", n, err)
	}
	for name, handled := range map[string]chan int{"paused": w.afterPause, "deferring": w.deferred, "keyed": w.keyed} {
		within(t, time.Minute, name+" handles everything", func() bool { return len(handled) >= 60 })
		awaitAll(t, b, "S", name)
		if len(handled) != 60 {
			t.Errorf("%s has handled %d messages", name, len(handled))
		}
	}
	for last := 0; len(w.keyed) > 0; {
		n := receive(t, w.keyed)
		if n%3 == 1 && n < last {
			t.Errorf("%d was handled after %d, of the same key", n, last)
		}
		if n%3 == 1 {
			last = n
		}
	}
	within(t, time.Minute, "the scheduled message is stored and the other one removed", func() bool {
		all := replayed(t, w.schedules, bus.Subject[int]("due.*"))
		return len(all) == 1 && all[0].Data == 7
	})
	if n := receive(t, w.due); n != 7 || len(w.due) > 0 {
		t.Errorf("%d was handled, and then %d more", n, len(w.due))
	}
}

// What waits in the streams is found after a switch and a restart: pauses, deferred retries, dead
// letters, blocked keys, schedules and TTLs. Nothing of it comes early, twice or not at all.
func TestSwitchToKeepsWhatWaits(t *testing.T) {
	t.Parallel()
	toServers(t, func(t *testing.T, _ int, urls string) {
		dir := t.TempDir()
		b := openOn(t, dir, bus.WithTimeout(time.Minute))
		w := newWhatWaits()
		w.consume(t, b)
		must(t, w.paused.Pause(t.Context(), time.Time{}))
		storeNumbers(t, w.s, 1, 30) // key s.1: 1, 4 and what is behind it
		w.deadUntil(t, 9)
		eventually(t, "five messages are deferred", func() bool { return deferredOf(t, b, "S", "deferring") == 5 })
		w.schedule(t)
		switchTo(t, b, urls)
		must(t, b.Close())
		b = openOn(t, dir, bus.WithTimeout(time.Minute))
		w.consume(t, b)
		if n := deferredOf(t, b, "S", "deferring"); n != 5 {
			t.Errorf("%d messages are deferred", n)
		}
		storeNumbers(t, w.s, 31, 60)
		w.deadUntil(t, 19) // the key is still blocked
		w.mustHaveWaited(t, b)
	})
}

// A bucket has its revisions after a switch: an update needs the latest one, and a watcher goes on.
func TestSwitchToWithABucket(t *testing.T) {
	t.Parallel()
	toServers(t, func(t *testing.T, _ int, urls string) {
		b := openOn(t, t.TempDir(), bus.WithTimeout(time.Minute))
		kv, err := b.JetStream().CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "K"})
		must(t, err)
		revision, err := kv.Put(t.Context(), "a", []byte("1"))
		must(t, err)
		watcher, err := kv.WatchAll(t.Context())
		must(t, err)
		defer func() { _ = watcher.Stop() }() // the bus has closed its connection if the test has failed
		if e := receive(t, watcher.Updates()); string(e.Value()) != "1" {
			t.Errorf("the watcher has %s", e.Value())
		}
		receive(t, watcher.Updates()) // nil: these are all
		switchTo(t, b, urls)
		latest, err := kv.Update(t.Context(), "a", []byte("2"), revision)
		must(t, err)
		if _, err = kv.Update(t.Context(), "a", []byte("3"), revision); !errors.Is(err, jetstream.ErrKeyExists) {
			t.Errorf("an update of an old revision: %v", err)
		}
		if e := receive(t, watcher.Updates()); string(e.Value()) != "2" || e.Revision() != latest {
			t.Errorf("the watcher has revision %d, %s; want %d", e.Revision(), e.Value(), latest)
		}
	})
}

// sender sends the numbers from 0 on, and counts which of them come.
type sender struct {
	sent atomic.Int64
	mu   sync.Mutex
	came map[int]int
}

// run sends until stop is closed.
func (s *sender) run(t *testing.T, stop <-chan struct{}, send func(n int) error) {
	pace := time.NewTicker(500 * time.Microsecond)
	defer pace.Stop()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-pace.C:
		}
		if err := send(n); err != nil {
			t.Errorf("%d was not sent: %v", n, err)
			return
		}
		s.sent.Add(1)
	}
}

// handle counts what comes.
func (s *sender) handle(_ context.Context, m *bus.Msg[int]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.came == nil {
		s.came = make(map[int]int)
	}
	s.came[m.Data]++
	return nil
}

// mustBeOnce checks that everything came, each once.
func (s *sender) mustBeOnce(t *testing.T, what string) {
	t.Helper()
	eventually(t, what+": everything came", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.came) >= int(s.sent.Load())
	})
	for n, times := range s.came {
		if times != 1 {
			t.Errorf("%s: %d came %d times", what, n, times)
		}
	}
}

// What is under way when a bus switches is neither lost nor doubled: futures, core messages, those of
// the buffer of PublishAsync, and a request that takes longer than the switch.
func TestSwitchToWhileCallsAreUnderWay(t *testing.T) {
	t.Parallel()
	toServers(t, func(t *testing.T, _ int, urls string) {
		b := openOn(t, t.TempDir(), bus.WithTimeout(time.Minute))
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		var futures []*bus.Future
		var core, async, stored sender
		must(t, second(bus.Subscribe(b, bus.Subject[int]("core"), core.handle)))
		must(t, second(bus.Subscribe(b, bus.Subject[int]("async"), async.handle)))
		asked, switched, replied := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		must(t, second(bus.Respond(b, bus.Endpoint[int, int]("slow"), func(_ context.Context, m *bus.Msg[int]) (int, error) {
			close(asked)
			<-switched
			return 2 * m.Data, nil
		})))
		go func() {
			n, err := bus.Request(t.Context(), b, bus.Endpoint[int, int]("slow"), 21)
			if err == nil && n != 42 {
				err = fmt.Errorf("the reply is %d", n)
			}
			replied <- err
		}()
		receive(t, asked)
		stop := make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() {
			stored.run(t, stop, func(n int) error {
				f, err := bus.PublishToAsync(t.Context(), st, bus.Subject[int]("s.1"), n)
				futures = append(futures, f)
				return err
			})
		})
		all.Go(func() {
			core.run(t, stop, func(n int) error { return bus.Publish(t.Context(), b, bus.Subject[int]("core"), n) })
		})
		all.Go(func() {
			async.run(t, stop, func(n int) error { return bus.PublishAsync(t.Context(), b, bus.Subject[int]("async"), n) })
		})
		more := func() {
			for _, s := range []*sender{&core, &async, &stored} {
				before := s.sent.Load()
				eventually(t, "more is sent", func() bool { return t.Failed() || s.sent.Load() >= before+100 })
			}
		}
		more()
		switchTo(t, b, urls)
		close(switched)
		must(t, receive(t, replied))
		more()
		close(stop)
		all.Wait()
		for i, f := range futures {
			ack, err := f.Wait(t.Context())
			if must(t, err); ack.Sequence != uint64(i+1) {
				t.Fatalf("the future %d has the sequence %d", i, ack.Sequence)
			}
		}
		core.mustBeOnce(t, "Publish")
		async.mustBeOnce(t, "PublishAsync")
		if got := storedNumbers(t, st); len(got) != len(futures) {
			t.Errorf("the stream has %d messages, and %d were acknowledged", len(got), len(futures))
		}
	})
}
