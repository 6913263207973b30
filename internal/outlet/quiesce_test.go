package outlet_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/testserver"
)

// later calls f on a goroutine and returns where its result comes.
func later(f func() error) <-chan error {
	result := make(chan error, 1)
	go func() { result <- f() }()
	return result
}

// ready reports whether a result is there once nothing moves, in a bubble.
func ready(result <-chan error) (ok bool, err error) {
	synctest.Wait()
	select {
	case err := <-result:
		return true, err
	default:
		return false, nil
	}
}

// unfinished checks that err is an *UnfinishedError of so many messages.
func unfinished(t *testing.T, err error, messages int) {
	t.Helper()
	u, ok := errors.AsType[*outlet.UnfinishedError](err)
	if !ok || u.Messages != messages || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %d messages without an outcome", err, messages)
	}
}

// A quiesced outlet waits for the messages of a window, and holds up all that would be
// sent. Nobody fails.
func TestOutletQuiesce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		answer := make(chan string)
		stream(t, s, func(_ int, m *nats.Msg) string {
			if m.Reply == "" {
				return ""
			}
			return <-answer
		})
		o := newSender(t, s)
		w := outlet.NewWindow(o.Outlet, 10)
		first := add(t, w, "", time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		unfinished(t, o.Quiesce(ctx), 1)
		cancel()
		second := &outlet.Future{Message: *message(""), Deadline: time.Now().Add(time.Hour)}
		waits := []<-chan error{
			later(func() error { return w.Add(t.Context(), second) }),
			later(func() error { return o.Send(t.Context(), message("")) }),
			later(func() error { _, err := o.Store(t.Context(), message("")); return err }),
			later(func() error {
				_, err := o.StoreBatch(t.Context(), &outlet.Batch{Name: "b", Messages: []outlet.Message{*message("")}})
				return err
			}),
			later(func() error { _, err := o.Request(t.Context(), message("")); return err }),
		}
		for i, result := range waits {
			if ok, err := ready(result); ok {
				t.Errorf("message %d passed: %v", i, err)
			}
		}
		quiesced := later(func() error { return o.Quiesce(t.Context()) }) // again
		if ok, err := ready(quiesced); ok {
			t.Errorf("it did not wait for the window: %v", err)
		}
		answer <- ackText
		if ok, err := ready(quiesced); !ok || err != nil {
			t.Errorf("the window is empty; returned %t, %v", ok, err)
		}
		if _, _, err := first.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if err := o.Reply(t.Context(), message("")); err != nil { // as handlers may
			t.Errorf("a reply: %v", err)
		}
		go func() {
			for {
				select {
				case answer <- ackText:
				case <-t.Context().Done():
					return
				}
			}
		}()
		o.Resume()
		for i, result := range waits {
			if err := <-result; err != nil {
				t.Errorf("message %d failed: %v", i, err)
			}
		}
		if _, _, err := second.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		w.Close()
	})
}

// Who waits at the gate does so within its context, and Add of a window within the
// deadline of its message. A shut gate ends that.
func TestOutletQuiesceWithContexts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newSender(t, testserver.New(t))
		o.Resume() // without Quiesce
		if err := o.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		w := outlet.NewWindow(o.Outlet, 1)
		began := time.Now()
		if err := w.Add(t.Context(), &outlet.Future{Message: *message(""), Deadline: began.Add(time.Minute)}); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := o.Send(ctx, message("")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if _, err := o.Request(ctx, message("")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		waits := later(func() error { return o.Send(t.Context(), message("")) })
		if ok, _ := ready(waits); ok {
			t.Error("it did not wait")
		}
		if err := o.link.Shut(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-waits; !errors.Is(err, link.ErrShut) {
			t.Errorf("got %v", err)
		}
		if err := o.Quiesce(t.Context()); !errors.Is(err, link.ErrShut) {
			t.Errorf("got %v", err)
		}
		w.Close()
	})
}

// order returns the numbers up to n.
func order(n int) []string {
	var all []string
	for i := range n {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

// A quiesced Async keeps what is added, has confirmed what it had sent, and goes on in
// order.
func TestAsyncQuiesce(t *testing.T) {
	t.Parallel()
	for _, begun := range []bool{false, true} {
		t.Run("begun="+strconv.FormatBool(begun), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testserver.New(t)
				got := receive(t, s.Link(t))
				var f failures
				a := outlet.NewAsync(newSender(t, s).Outlet, f.config(100, true))
				a.Resume() // without Quiesce
				want := order(40)
				sent := 0
				put := func(n int) {
					t.Helper()
					for range n {
						if err := a.Add(t.Context(), numbered(sent)); err != nil {
							t.Error(err)
						}
						sent++
					}
				}
				if begun {
					put(20)
				}
				for range 2 { // twice
					if err := a.Quiesce(t.Context()); err != nil {
						t.Error(err)
					}
				}
				before := len(got())
				put(10)
				time.Sleep(time.Second)
				synctest.Wait()
				if n := len(got()); n != before || a.Pending() != 10+sent-10-before {
					t.Errorf("%d came while it was quiesced; %d are in the buffer", n-before, a.Pending())
				}
				flushed := later(func() error { return a.Flush(t.Context()) })
				if ok, err := ready(flushed); ok {
					t.Errorf("Flush did not wait: %v", err)
				}
				a.Resume()
				if err := <-flushed; err != nil {
					t.Error(err)
				}
				put(40 - sent)
				if n := a.Drain(t.Context()); n != 0 {
					t.Errorf("%d were not sent", n)
				}
				synctest.Wait()
				if all := got(); !slices.Equal(all, want) {
					t.Errorf("got %v", all)
				}
			})
		})
	}
}

// Drain of a quiesced Async sends what is in its buffer.
func TestAsyncDrainWhileQuiesced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		got := receive(t, s.Link(t))
		var f failures
		a := outlet.NewAsync(newSender(t, s).Outlet, f.config(100, true))
		if err := a.Quiesce(t.Context()); err != nil {
			t.Error(err)
		}
		for i := range 10 {
			if err := a.Add(t.Context(), numbered(i)); err != nil {
				t.Error(err)
			}
		}
		if n := a.Drain(t.Context()); n != 0 {
			t.Errorf("%d were not sent", n)
		}
		synctest.Wait()
		if all := got(); !slices.Equal(all, order(10)) {
			t.Errorf("got %v", all)
		}
		if err := a.Quiesce(t.Context()); err != nil { // there is nothing any more
			t.Error(err)
		}
		a.Resume()
	})
}

// While the server does not confirm, Quiesce waits as long as its context, and says how
// many messages have no outcome.
func TestAsyncQuiesceWithoutConfirmation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		silent := newSilentLink(t)
		a, _ := newAsync(silent.link, 100, new(failures))
		silent.silence()
		for i := range 3 {
			if err := a.Add(t.Context(), numbered(i)); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		unfinished(t, a.Quiesce(ctx), 3)
		quiesced := later(func() error { return a.Quiesce(t.Context()) })
		if ok, err := ready(quiesced); ok {
			t.Errorf("it did not wait: %v", err)
		}
		a.Resume()
		if ok, err := ready(quiesced); !ok || err != nil {
			t.Errorf("after Resume: returned %t, %v", ok, err)
		}
		if n := a.Drain(ctx); n != 3 {
			t.Errorf("%d were not sent, want 3", n)
		}
		silent.link.Abort()
		<-a.Done()
	})
}

// Many quiesce and resume while many publish: nothing is lost and nobody fails.
func TestOutletQuiesceUnderLoad(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	got := receive(t, s.Link(t))
	var f failures
	o := newSender(t, s)
	a := outlet.NewAsync(o.Outlet, f.config(10, true))
	var publishing, quiescing sync.WaitGroup
	const publishers, messages = 4, 250
	for range publishers {
		publishing.Go(func() {
			for i := range messages {
				if err := a.Add(t.Context(), numbered(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 10 {
		quiescing.Go(func() {
			for range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				_, _ = a.Quiesce(ctx), o.Quiesce(ctx)
				cancel()
				o.Resume()
				a.Resume()
			}
		})
	}
	quiescing.Wait()
	publishing.Wait()
	if n := a.Drain(t.Context()); n != 0 {
		t.Errorf("%d were not sent", n)
	}
	for end := time.Now().Add(10 * time.Second); len(got()) < publishers*messages && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if n := len(got()); n != publishers*messages {
		t.Errorf("%d of %d came", n, publishers*messages)
	}
}
