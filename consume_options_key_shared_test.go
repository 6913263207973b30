package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/stats"
)

// owns reports whether a consumer of b is the owner of its durable.
func owns(b *bus.Bus) bool {
	return slices.ContainsFunc(b.Stats().Subscriptions, func(s stats.Subscription) bool { return s.Owner })
}

// keyOrder notes who handled what and fails the test where a key is at two places.
type keyOrder struct {
	mu    sync.Mutex
	at    map[string]string
	last  map[string]uint64
	calls map[string]int
}

// handler is that of one member.
func (o *keyOrder) handler(t *testing.T, who string) bus.Handler[int] {
	return func(_ context.Context, m *bus.Msg[int]) error {
		o.enter(t, who, m)
		spin(500 * time.Microsecond)
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.at, m.Subject)
		return nil
	}
}

func (o *keyOrder) enter(t *testing.T, who string, m *bus.Msg[int]) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.at == nil {
		o.at, o.last, o.calls = make(map[string]string), make(map[string]uint64), make(map[string]int)
	}
	if other := o.at[m.Subject]; other != "" {
		t.Errorf("%s handles %s while %s does", who, m.Subject, other)
	}
	if last := o.last[m.Subject]; m.Sequence <= last {
		t.Errorf("%s handles %d of %s after %d", who, m.Sequence, m.Subject, last)
	}
	o.at[m.Subject], o.last[m.Subject] = who, m.Sequence
	o.calls[who]++
}

func (o *keyOrder) count(who string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.calls[who]
}

// Two buses share a durable with keys; the first one leaves, and the other goes on.
// Each message is handled once and each key in order. The AckWait is long: a bus that gets no
// processor for a part of it would be taken for dead, and its messages would be handled again.
func TestKeysOnTwoBuses(t *testing.T) {
	t.Parallel()
	a, b, sa, sb := two(t)
	keys, each := 20, underRace(20, 100)
	storeKeys(t, sa, keys, keys*each/2)
	var o keyOrder
	both := make(chan struct{})
	patient := func(ctx context.Context, m *bus.Msg[int]) error { // until the second one takes part
		<-both
		return o.handler(t, "a")(ctx, m)
	}
	opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.Concurrency(2), bus.AckWait(30 * time.Second)}
	first := consume(t, sa, "d", "s.*", patient, opts...)
	eventually(t, "the first one is the owner", func() bool { return owns(a) })
	consume(t, sb, "d", "s.*", o.handler(t, "b"), opts...)
	eventually(t, "the second one handles", func() bool { return o.count("b") > 20 })
	close(both)
	eventually(t, "both handle", func() bool { return o.count("a") > 1 })
	if owns(b) {
		t.Error("both are owners")
	}
	must(t, first.Drain(t.Context()))
	eventually(t, "the second one is the owner", func() bool { return owns(b) })
	storeKeys(t, sa, keys, keys*each/2)
	eventually(t, "all are handled", func() bool { return o.count("a")+o.count("b") >= keys*each })
	awaitAll(t, a, "S", "d")
	if n := o.count("a") + o.count("b"); n != keys*each {
		t.Errorf("%d handler calls for %d messages", n, keys*each)
	}
}

// What a handler in another process did to a message is known to the owner as if it
// had run there: attempts, causes and texts of dead letters; and those are redriven.
func TestFailuresOnAnotherBus(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	_, b, sa, sb := two(t, record)
	busy, free := make(chan struct{}), make(chan struct{})
	opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.AckWait(2 * time.Second),
		bus.Retry(bus.RetryPolicy{MaxAttempts: 3, MinBackoff: time.Millisecond})}
	storeRange(t, sa, "s.first", 0, 1)
	consume(t, sa, "d", "s.*", func(context.Context, *bus.Msg[int]) error {
		close(busy)
		<-free
		return nil
	}, opts...)
	wait(t, busy, "the owner's handler") // from now on it has no hand free
	mended := make(chan string, 10)
	var mu sync.Mutex
	broken := true
	consume(t, sb, "d", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case !broken:
			mended <- fmt.Sprintf("%s %d %d", m.Subject, m.Data, m.Attempt)
			return nil
		case m.Subject == "s.panic":
			panic("ouch")
		case m.Subject == "s.permanent":
			return bus.Permanent(errors.New("never"))
		case m.Subject == "s.long":
			return errors.New(strings.Repeat("ä", 1<<20)) // no message has room for it
		}
		return errors.New("no luck")
	}, opts...)
	want := map[string]struct {
		cause    bus.Cause
		attempts int
		text     string
	}{
		"s.error":     {bus.CauseError, 3, "no luck"},
		"s.panic":     {bus.CausePanic, 3, "bus: handler panicked: ouch"},
		"s.permanent": {bus.CausePermanent, 1, "never"},
		"s.long":      {bus.CauseError, 3, "ää"},
		"s.malformed": {bus.CauseMalformed, 1, "decode application/json"},
	}
	for subject := range want {
		_, err := bus.PublishTo(t.Context(), sa, bus.Subject[[]byte](subject), map[bool][]byte{true: []byte("{"), false: []byte("7")}[subject == "s.malformed"])
		must(t, err)
	}
	eventually(t, "all are dead letters", func() bool { return len(deadLetters(t, sa, bus.DeadFilter{})) == len(want) })
	for _, l := range deadLetters(t, sa, bus.DeadFilter{}) {
		if w := want[l.Subject]; l.Cause != w.cause || l.Attempt != w.attempts || !strings.Contains(l.Error, w.text) {
			t.Errorf("%s: cause %s, %d attempts, %q; want %+v", l.Subject, l.Cause, l.Attempt, l.Error, w)
		}
	}
	nextEvent(t, events, event.Retry) // told where it happened
	mu.Lock()
	broken = false
	mu.Unlock()
	n, err := sa.Redrive(t.Context(), bus.DeadFilter{Subject: "s.error"})
	if n != 1 || err != nil {
		t.Fatalf("redriven: %d, %v", n, err)
	}
	if got := receive(t, mended); got != "s.error 7 1" {
		t.Errorf("redriven as %q", got)
	}
	close(free)
	if owns(b) {
		t.Error("the other bus is the owner")
	}
}

// A bus that is closed from a handler that another one gave it the message for does
// not wait for that handler, and the message is handled once more elsewhere.
func TestCloseInAHandlerOfAnother(t *testing.T) {
	t.Parallel()
	_, b, sa, sb := two(t)
	busy, free := make(chan struct{}), make(chan struct{})
	handled := make(chan uint64, 10)
	opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.AckWait(time.Second)}
	storeRange(t, sa, "s.first", 0, 1)
	first := true
	consume(t, sa, "d", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		if first {
			first = false
			close(busy)
			<-free
		}
		handled <- m.Sequence
		return nil
	}, opts...)
	wait(t, busy, "the owner's handler")
	closed := make(chan error, 1)
	consume(t, sb, "d", "s.*", func(context.Context, *bus.Msg[int]) error {
		closed <- b.Close()
		return nil
	}, opts...)
	storeRange(t, sa, "s.second", 0, 1)
	must(t, receive(t, closed))
	close(free)
	got := []uint64{receive(t, handled), receive(t, handled)}
	if slices.Sort(got); !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("handled %v", got)
	}
}

// The owner alone may run as many handlers at once as it was asked to.
func TestConcurrencyOfAnOwner(t *testing.T) {
	t.Parallel()
	_, _, sa, _ := two(t)
	const keys = 300
	storeKeys(t, sa, keys, keys)
	var all sync.WaitGroup
	all.Add(keys)
	consume(t, sa, "d", "s.*", func(context.Context, *bus.Msg[int]) error {
		all.Done()
		all.Wait()
		return nil
	}, bus.KeyBySubject(), bus.Concurrency(keys))
	together := make(chan struct{})
	go func() {
		all.Wait()
		close(together)
	}()
	wait(t, together, "all handlers at once")
}

// The outcome of a handler that runs beyond Stop is refused, with the reason, and its
// message comes again.
func TestStopWithAHandlerOfAnOwner(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	_, _, _, sb := two(t, record)
	opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.AckWait(time.Second)}
	storeRange(t, sb, "s.a", 0, 1)
	busy, free, again := make(chan struct{}), make(chan struct{}), make(chan int, 1)
	con := consume(t, sb, "d", "s.*", func(context.Context, *bus.Msg[int]) error {
		close(busy)
		<-free
		return nil
	}, opts...)
	wait(t, busy, "the handler")
	con.Stop()
	close(free)
	hasText(t, nextEvent(t, events, event.SettlementRefused).Err, "had stopped before the handler returned")
	consume(t, sb, "d", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		again <- m.Data
		return nil
	}, opts...)
	receive(t, again)
}

// While no dead letter can be written, what is to become one waits with its key, however
// much that is; other keys are settled. Once dead letters can be written again, all are.
func TestManyDeadLettersThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := bustest.New(t, bus.WithListen("127.0.0.1:0"), bus.WithMaxPayload(16<<10), bus.WithLogger(silent()), record)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	var calls, done atomic.Int64
	consume(t, st, "d", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		if m.Data == 0 {
			calls.Add(1)
			return bus.Permanent(errors.New(strings.Repeat("no", 1000)))
		}
		done.Add(1)
		return nil
	}, bus.KeyBySubject())
	allow := refuseAll(t, b, "S-dead")
	const bad, good = 100, 100 // a record has room for fewer verdicts than that
	store := func(kind string, value, n int) {
		for i := range n {
			must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.%s%d", kind, i)), value)))
		}
	}
	store("bad", 0, bad)
	eventually(t, "all bad ones have failed", func() bool { return calls.Load() == bad })
	hasText(t, awaitEvent(t, events, event.DeadLetterFailed).Err, "message size exceeds maximum allowed")
	store("good", 1, good)
	eventually(t, "the others are settled", func() bool {
		i := consumerInfo(t, b, "S", "d")
		return done.Load() == good && i.NumPending == 0 && i.NumAckPending == bad
	})
	allow()
	awaitAll(t, b, "S", "d")
	if ls := deadLetters(t, st, bus.DeadFilter{}); len(ls) != bad || calls.Load() != bad {
		t.Errorf("%d dead letters after %d calls, want %d", len(ls), calls.Load(), bad)
	}
}
