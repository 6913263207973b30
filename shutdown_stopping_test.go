package bus_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/switchover"
)

// untilStopping is a handler of messages of a stream that returns when the bus stops. It fails
// the test if it is called later.
type untilStopping struct {
	t       *testing.T
	outcome error
	calls   chan (<-chan struct{}) // the channel of Stopping, of each call

	mu    sync.Mutex
	given int             // messages
	tried map[uint64]bool // by sequence
}

func newUntilStopping(t *testing.T, outcome error) *untilStopping {
	return &untilStopping{t: t, outcome: outcome, calls: make(chan (<-chan struct{}), 1000), tried: make(map[uint64]bool)}
}

func (u *untilStopping) call(ctx context.Context, given int, tried ...uint64) error {
	stopping := bus.Stopping(ctx)
	select {
	case <-stopping:
		u.t.Errorf("the handler of %d is called after Stopping is closed", tried)
		return errNo
	default:
	}
	u.mu.Lock()
	u.given += given
	for _, sequence := range tried {
		u.tried[sequence] = true
	}
	u.mu.Unlock()
	u.calls <- stopping
	<-stopping
	return u.outcome
}

func (u *untilStopping) one(ctx context.Context, m *bus.Msg[int]) error {
	return u.call(ctx, 1, m.Sequence)
}

// batch has tried all messages of a batch, or with keys the first of each key.
func (u *untilStopping) batch(keyed bool) bus.BatchHandler[int] {
	return func(ctx context.Context, ms []*bus.Msg[int]) error {
		keys, tried := make(map[string]bool), []uint64(nil)
		for _, m := range ms {
			if !keyed || u.outcome == nil || !keys[m.Subject] {
				tried = append(tried, m.Sequence)
			}
			keys[m.Subject] = true
		}
		return u.call(ctx, len(ms), tried...)
	}
}

// mustGoOn fails the test unless the messages that were handled do not come again, those that
// failed come with their second attempt, and the n in all that were not handled with their first.
func (u *untilStopping) mustGoOn(n int, start func(h func(*bus.Msg[int]))) {
	u.t.Helper()
	type attempt struct {
		sequence uint64
		attempt  int
	}
	got := make(chan attempt, 1000)
	start(func(m *bus.Msg[int]) { got <- attempt{m.Sequence, m.Attempt} })
	want := make(map[attempt]bool)
	for sequence := range uint64(n) {
		switch tried := u.tried[sequence+1]; {
		case !tried:
			want[attempt{sequence + 1, 1}] = true
		case u.outcome != nil:
			want[attempt{sequence + 1, 2}] = true
		}
	}
	for len(want) > 0 {
		a := receive(u.t, got)
		if !want[a] {
			u.t.Errorf("message %d has attempt %d", a.sequence, a.attempt)
			return
		}
		delete(want, a)
	}
}

// beginners are the ways to handle messages of a stream.
var beginners = map[string]struct {
	batch, keyed bool
	opts         []bus.ConsumeOption
}{
	"plain":            {},
	"limited":          {opts: []bus.ConsumeOption{bus.RateLimit(1000, time.Second)}},
	"keys":             {keyed: true},
	"batches":          {batch: true},
	"batches and keys": {batch: true, keyed: true},
}

// No handler of a stream is called once Stopping is closed. What was not handled costs no attempt.
func TestNoHandlerOfAStreamBeginsWhenTheBusStops(t *testing.T) {
	t.Parallel()
	for place, open := range map[string]func(t *testing.T) func() *bus.Bus{
		"alone": func(t *testing.T) func() *bus.Bus {
			dir := t.TempDir()
			return func() *bus.Bus { return openOn(t, dir) }
		},
		"shared": func(t *testing.T) func() *bus.Bus {
			home := bustest.New(t, anyPort())
			return func() *bus.Bus { return connectTo(t, home) }
		},
	} {
		for way, outcome := range map[string]error{"done": nil, "failed": bus.RetryAfter(0, errNo)} {
			for name, kind := range beginners {
				t.Run(place+"/"+name+"/"+way, func(t *testing.T) {
					t.Parallel()
					const n, concurrency = 30, 2
					open, u := open(t), newUntilStopping(t, outcome)
					opts := append([]bus.ConsumeOption{bus.Concurrency(concurrency)}, kind.opts...)
					if kind.keyed {
						opts = append(opts, bus.KeyBySubject())
					}
					if kind.batch {
						opts = append(opts, bus.BatchSize(4), bus.BatchWait(time.Millisecond))
					}
					b := open()
					st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
					storeKeys(t, st, 6, n) // more keys than messages in a batch
					if kind.batch {
						consumeBatch(t, st, "c", "s.*", u.batch(kind.keyed), opts...)
					} else {
						consume(t, st, "c", "s.*", u.one, opts...)
					}
					for range concurrency {
						receive(t, u.calls)
					}
					must(t, b.Close())
					if s := b.Stats(); s.Received != int64(u.given) {
						t.Errorf("the statistics have %d messages, the handler was given %d", s.Received, u.given)
					}
					again := open()
					st, err := again.LookupStream(t.Context(), "S")
					must(t, err)
					u.mustGoOn(n, func(h func(*bus.Msg[int])) {
						if !kind.batch {
							consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error { h(m); return nil }, opts...)
							return
						}
						consumeBatch(t, st, "c", "s.*", func(_ context.Context, ms []*bus.Msg[int]) error {
							for _, m := range ms {
								h(m)
							}
							return nil
						}, opts...)
					})
				})
			}
		}
	}
}

// Of two processes that share a durable with keys one stops. It begins nothing more, whether it
// is the owner or the owner has assigned the messages to it. The other one handles the rest.
func TestNoHandlerOfAMemberBeginsWhenItsBusStops(t *testing.T) {
	t.Parallel()
	for _, leaver := range []string{"the owner", "another member"} {
		t.Run(leaver, func(t *testing.T) {
			t.Parallel()
			const n, keys, concurrency = 60, 12, 2
			home := bustest.New(t, anyPort())
			declare(t, home, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			u := newUntilStopping(t, bus.RetryAfter(0, errNo))
			release, handled := make(chan struct{}), make(chan int, n)
			leave := func() *bus.Bus { return member(t, home, u.one, bus.Concurrency(concurrency)) }
			stay := func() *bus.Bus {
				return member(t, home, func(ctx context.Context, m *bus.Msg[int]) error {
					select {
					case <-release:
					case <-ctx.Done():
					}
					handled <- m.Attempt
					return nil
				}, bus.Concurrency(concurrency))
			}
			var leaving *bus.Bus
			if leaver == "the owner" {
				leaving = leave()
				eventually(t, "it is the owner", func() bool { return owns(leaving) })
				stay()
			} else {
				staying := stay()
				eventually(t, "it is the owner", func() bool { return owns(staying) })
				leaving = leave()
			}
			st, err := home.LookupStream(t.Context(), "S")
			must(t, err)
			storeKeys(t, st, keys, n)
			var stopping <-chan struct{}
			for range concurrency {
				stopping = receive(t, u.calls)
			}
			closed := make(chan error, 1)
			go func() { closed <- leaving.Close() }()
			receive(t, stopping)
			close(release)
			must(t, receive(t, closed))
			again := 0
			for range n {
				if receive(t, handled) == 2 {
					again++
				}
			}
			if again != len(u.tried) || again != concurrency {
				t.Errorf("%d messages have a second attempt, %d have had their first in the bus that stopped", again, len(u.tried))
			}
		})
	}
}

// member is a process that shares the durable c of S.
func member(t *testing.T, home *bus.Bus, h bus.Handler[int], opts ...bus.ConsumeOption) *bus.Bus {
	t.Helper()
	b := connectTo(t, home)
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	consume(t, st, "c", "s.*", h, append(opts, bus.KeyBySubject())...)
	return b
}

// A stopping bus waits for a switch that goes back. No handler begins meanwhile, nor when the
// switch ends the hold of the consumers. A consumer that is added is none the better.
func TestNoHandlerOfAStreamBeginsWhenTheBusStopsWhileItSwitches(t *testing.T) {
	t.Parallel()
	for _, phase := range []switchover.Phase{switchover.Preflight, switchover.Hold, switchover.Copy} {
		t.Run(string(phase), func(t *testing.T) {
			t.Parallel()
			target, b := newTarget(t), ownBus(t)
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			storeKeys(t, st, 3, 30)
			u := newUntilStopping(t, bus.RetryAfter(0, errNo))
			consume(t, st, "plain", "s.*", u.one)
			consume(t, st, "keys", "s.*", u.one, bus.KeyBySubject())
			stopping := receive(t, u.calls)
			receive(t, u.calls)
			closed := make(chan error, 1)
			var once sync.Once
			_, _ = b.SwitchTo(t.Context(), target.ClientURL(), switchover.OnProgress(func(p switchover.Progress) {
				if p.Phase == phase {
					once.Do(func() {
						go func() { closed <- b.Close() }()
						receive(t, stopping)
						if phase == switchover.Preflight { // calls do not wait for the switch yet
							_, _ = bus.Consume(t.Context(), st, "late", "s.*", u.one)
						}
						nothing(t, u.calls)
					})
				}
			}))
			must(t, receive(t, closed))
		})
	}
}
