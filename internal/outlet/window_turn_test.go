package outlet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// countedTo is a message with a number as its payload.
func countedTo(subject string, n int) *outlet.Future {
	m := outlet.Message{Out: wire.Out{Subject: subject, Data: []byte(strconv.Itoa(n))}}
	return &outlet.Future{Message: m, Deadline: time.Now().Add(time.Minute)}
}

// addNumbered adds the numbers from first to last-1.
func addNumbered(t *testing.T, w *outlet.Window, first, last int) (all []*outlet.Future) {
	t.Helper()
	for n := first; n < last; n++ {
		f := countedTo("stored", n)
		if err := w.Add(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	return all
}

// recorder takes the part of a stream, and remembers the numbers that it stored.
type recorder struct {
	mu     sync.Mutex
	stored []int
}

func (r *recorder) answer(t *testing.T) func(int, *nats.Msg) string {
	return func(_ int, m *nats.Msg) string {
		n, err := strconv.Atoi(string(m.Data))
		if err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stored = append(r.stored, n)
		return ackText
	}
}

// check fails the test if other numbers than 0 to n-1 were stored, or in another order.
func (r *recorder) check(t *testing.T, n int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.stored) != n || !slices.IsSorted(r.stored) {
		t.Errorf("stored %v, want %d in order", r.stored, n)
	}
}

func awaitStored(t *testing.T, futures ...*outlet.Future) {
	t.Helper()
	for _, f := range futures {
		if _, _, err := f.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

// A stream that has no responders when the first messages come stores them first.
func TestWindowKeepsTheOrderOfAStreamThatBegins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		w := outlet.NewWindow(newSender(t, s).Outlet, 100)
		all := addNumbered(t, w, 0, 10)
		synctest.Wait() // until they had no responders
		var r recorder
		stream(t, s, r.answer(t))
		all = append(all, addNumbered(t, w, 10, 20)...)
		awaitStored(t, all...)
		r.check(t, 20)
		w.Close()
	})
}

// A stream that loses its leader stores what had no responders before what came later.
func TestWindowKeepsTheOrderOfAStreamWithoutALeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		w := outlet.NewWindow(newSender(t, s).Outlet, 100)
		var r recorder
		leader := s.Link(t)
		lead := func() *nats.Subscription {
			sub, err := leader.Conn().Subscribe("stored", func(m *nats.Msg) {
				_ = m.Respond([]byte(r.answer(t)(0, m)))
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := leader.Flush(t.Context(), time.Second); err != nil {
				t.Fatal(err)
			}
			return sub
		}
		sub := lead()
		awaitStored(t, addNumbered(t, w, 0, 10)...)
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		if err := leader.Flush(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		all := addNumbered(t, w, 10, 20)
		synctest.Wait()
		all = append(all, addNumbered(t, w, 20, 30)...)
		lead()
		all = append(all, addNumbered(t, w, 30, 40)...)
		awaitStored(t, all...)
		r.check(t, 40)
		w.Close()
	})
}

// A subject that the stream no longer has does not keep its other subjects.
func TestWindowAndASubjectWithoutAStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		w := outlet.NewWindow(newSender(t, s).Outlet, 100)
		var r recorder
		stream(t, s, r.answer(t))
		began := time.Now()
		for n := range 40 { // for longer than a stream may be away
			gone := countedTo("gone", n)
			if err := w.Add(t.Context(), gone); err != nil {
				t.Fatal(err)
			}
			awaitStored(t, addNumbered(t, w, n, n+1)...)
			if n == 0 {
				defer func() {
					if _, _, err := gone.Wait(context.Background()); !errors.Is(err, nats.ErrNoResponders) {
						t.Errorf("got %v", err)
					}
				}()
			}
		}
		if took := time.Since(began); took > 40*250*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		r.check(t, 40)
		w.StartCounting()
		if err := w.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		w.Close()
	})
}

// Messages to a stream that does not exist end at the same time, however many there are.
func TestWindowWithoutAStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		const many = 10_000
		w := outlet.NewWindow(newSender(t, s).Outlet, many)
		began := time.Now()
		for _, f := range addNumbered(t, w, 0, many) {
			if _, _, err := f.Wait(t.Context()); !errors.Is(err, nats.ErrNoResponders) || errors.Is(err, outlet.ErrUnknown) {
				t.Fatalf("got %v", err)
			}
		}
		if took := time.Since(began); took > 800*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		w.Close()
	})
}

// A stream that gives no answer is waited for as long as one attempt may take.
func TestWindowAndASilentStream(t *testing.T) {
	t.Parallel()
	for id, ended := range map[string]string{"": "without", "x": "with"} {
		t.Run(fmt.Sprint(ended, " an ID"), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testserver.New(t)
				w := outlet.NewWindow(newSender(t, s).Outlet, 100)
				stream(t, s, func(n int, m *nats.Msg) string {
					if string(m.Data) == "x" {
						return ""
					}
					return ackText
				})
				silent := &outlet.Future{Message: *message(id), Deadline: time.Now().Add(time.Hour)}
				if err := w.Add(t.Context(), silent); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				awaitStored(t, addNumbered(t, w, 0, 10)...)
				if took := time.Since(began); took > 2200*time.Millisecond {
					t.Errorf("it took %v", took)
				}
				began = time.Now()
				awaitStored(t, addNumbered(t, w, 10, 20)...)
				if took := time.Since(began); took != 0 {
					t.Errorf("the next took %v", took)
				}
				w.Close()
			})
		})
	}
}

// A stream that was silent and then loses its leader gets its messages with pauses.
func TestWindowAndASilentStreamThatGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		o := newSender(t, s)
		w := outlet.NewWindow(o.Outlet, 100)
		leader := s.Link(t)
		sub, err := leader.Conn().Subscribe("stored", func(*nats.Msg) {})
		if err != nil {
			t.Fatal(err)
		}
		if err := leader.Flush(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		all := []*outlet.Future{add(t, w, "", time.Minute), add(t, w, "", time.Minute), add(t, w, "x", time.Minute)}
		time.Sleep(time.Second) // of the bubble
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		if err := leader.Flush(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		sent := o.link.Conn().Stats().OutMsgs
		for _, f := range all {
			if _, _, err := f.Wait(context.Background()); err == nil {
				t.Error("it was stored")
			}
		}
		if n := o.link.Conn().Stats().OutMsgs - sent; n > 1000 {
			t.Errorf("%d messages were sent in a minute", n)
		}
		w.Close()
	})
}
