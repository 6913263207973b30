package intake_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// openCore subscribes to "s" with the defaults that c leaves out.
func openCore(t *testing.T, l *link.Link, c intake.CoreConfig) *intake.Core {
	t.Helper()
	c.Subject, c.Timeout = "s", 5*time.Second
	c.Concurrency = max(c.Concurrency, 1)
	if c.PendingMsgs == 0 {
		c.PendingMsgs, c.PendingBytes = -1, -1
	}
	if c.Failed == nil {
		c.Failed = func(err error) { t.Errorf("the subscription failed: %v", err) }
	}
	s := intake.NewCore(l, c)
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	return s
}

// sent publishes n numbered messages to "s" and waits until the server has
// passed them on.
func sent(t *testing.T, l *link.Link, n int) {
	t.Helper()
	for i := range n {
		if err := l.Publish(&wire.Out{Subject: "s", Data: []byte(strconv.Itoa(i))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Flush(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Whatever of it was done when the connection closed, Open says that it closed.
func TestCoreOpenWhileTheConnectionCloses(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	for range 300 {
		l := s.Link(t)
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			l.Close()
		}()
		core := intake.NewCore(l, intake.CoreConfig{Subject: "s", Concurrency: 1, PendingMsgs: -1, PendingBytes: -1,
			Timeout: 5 * time.Second, Run: func(wire.In, int64) {}, Failed: func(error) {}})
		err := core.Open()
		<-closed
		if err == nil {
			if err := core.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else if !errors.Is(err, nats.ErrConnectionClosed) {
			t.Fatal(err)
		}
	}
}

func TestCoreDrainHandlesAllThatWasSentBefore(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 8} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			from, to := s.Link(t), s.Link(t)
			const n = 5000
			var mu sync.Mutex
			var got []string
			core := openCore(t, to, intake.CoreConfig{Concurrency: concurrency, Run: func(in wire.In, _ int64) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, string(in.Data))
			}})
			sent(t, from, n)
			if err := core.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !closed(core.Done()) {
				t.Error("Done is open after Drain")
			}
			if len(got) != n {
				t.Fatalf("%d of %d messages were handled", len(got), n)
			}
			for i, text := range got {
				if concurrency == 1 && text != strconv.Itoa(i) {
					t.Fatalf("message %s came in place %d", text, i)
				}
			}
			sent(t, from, 1)
			if len(got) != n || core.InFlight() != 0 {
				t.Error("a message was handled after Drain")
			}
			if msgs, bytes := core.Pending(); msgs != 0 || bytes != 0 {
				t.Errorf("%d messages with %d bytes wait after Drain", msgs, bytes)
			}
		})
	}
}

// Nothing may begin once Drain or Close has returned, even if they gave up on
// the handlers that run.
func TestCoreBeginsNothingAfterItsEnd(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 4} {
		for name, end := range map[string]func(*intake.Core, context.Context) error{
			"Drain": (*intake.Core).Drain, "Close": (*intake.Core).Close,
		} {
			t.Run(fmt.Sprintf("%s/%d", name, concurrency), func(t *testing.T) {
				t.Parallel()
				s := testserver.New(t)
				from, to := s.Link(t), s.Link(t)
				release, begun := make(chan struct{}), make(chan struct{}, 1000)
				var begin, ended atomic.Int64
				core := openCore(t, to, intake.CoreConfig{Concurrency: concurrency, Run: func(wire.In, int64) {
					begin.Add(1)
					begun <- struct{}{}
					<-release
					ended.Add(1)
				}})
				sent(t, from, 500)
				for range concurrency {
					<-begun
				}
				why := errors.New("used up")
				ctx, cancel := context.WithCancelCause(t.Context())
				cancel(why)
				err := end(core, ctx)
				if !errors.Is(err, why) {
					t.Errorf("it returned %v, want the cause of the context's end", err)
				}
				if left, ok := errors.AsType[*intake.LeftBehind](err); name == "Drain" && !ok || ok && left.Running == 0 {
					t.Errorf("it returned %v, want one that says that messages were left behind", err)
				}
				if !closed(core.Done()) {
					t.Error("Done is open")
				}
				close(release)
				if err := waitFor(t, func() bool { return ended.Load() == int64(concurrency) }); err != nil {
					t.Error(err)
				}
				sent(t, from, 10)
				sent(t, to, 10) // a round trip on the receiving connection too
				if begin.Load() != int64(concurrency) {
					t.Errorf("%d handlers began after the end", begin.Load()-int64(concurrency))
				}
			})
		}
	}
}

// waitFor waits until done, which something else brings about soon.
func waitFor(t *testing.T, done func() bool) error {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			return errors.New("it did not come about in 10 s")
		}
	}
	return nil
}

func TestCoreCloseDropsWhatWaitsAndWaitsForTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		from, to := s.Link(t), s.Link(t)
		var begun, ended atomic.Int64
		core := openCore(t, to, intake.CoreConfig{Concurrency: 2, Run: func(wire.In, int64) {
			begun.Add(1)
			time.Sleep(time.Minute)
			ended.Add(1)
		}})
		sent(t, from, 10)
		synctest.Wait()
		if err := core.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if begun.Load() != 2 || ended.Load() != 2 {
			t.Errorf("%d handlers began and %d ended, want 2", begun.Load(), ended.Load())
		}
	})
}

func TestCoreEndsFromItsOwnHandler(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 3} {
		for name, end := range map[string]func(*intake.Core, context.Context) error{
			"Drain": (*intake.Core).Drain, "Close": (*intake.Core).Close,
		} {
			t.Run(fmt.Sprintf("%s/%d", name, concurrency), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := testserver.New(t)
					l := s.Link(t)
					returned := make(chan error, 1)
					ready := make(chan struct{})
					var core *intake.Core
					core = openCore(t, l, intake.CoreConfig{Concurrency: concurrency, Run: func(wire.In, int64) {
						<-ready
						ctx, cancel := context.WithTimeout(dispatch.FromCaller(t.Context()), time.Hour)
						defer cancel()
						returned <- end(core, ctx)
					}})
					close(ready)
					sent(t, l, 1)
					began := time.Now()
					if err := <-returned; err != nil {
						t.Error(err)
					}
					if waited := time.Since(began); waited > time.Second {
						t.Errorf("it waited %v for its own handler", waited)
					}
				})
			})
		}
	}
}

// What only the closing handler could handle is left behind, and said so.
func TestCoreDrainFromTheOnlyHandlerSaysWhatItLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		l := s.Link(t)
		returned := make(chan error, 1)
		ready := make(chan struct{})
		var core *intake.Core
		core = openCore(t, l, intake.CoreConfig{Run: func(wire.In, int64) {
			<-ready
			returned <- core.Drain(dispatch.FromCaller(t.Context()))
		}})
		sent(t, l, 3)
		synctest.Wait()
		close(ready)
		if err := <-returned; !isLeftBehind(err) {
			t.Errorf("got %v", err)
		}
	})
}

func TestCoreDrainWaitsForHandlersThoughTheConnectionIsClosed(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 4} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testserver.New(t)
				l := s.Link(t)
				var running atomic.Int64
				core := openCore(t, l, intake.CoreConfig{Concurrency: concurrency, Run: func(wire.In, int64) {
					running.Add(1)
					time.Sleep(time.Minute)
					running.Add(-1)
				}})
				sent(t, l, concurrency)
				synctest.Wait()
				l.Close()
				if err := core.Drain(t.Context()); err != nil {
					t.Error(err)
				}
				if running.Load() != 0 {
					t.Errorf("Drain returned while %d handlers ran", running.Load())
				}
			})
		})
	}
}

func TestCoreOnAClosedConnection(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	l := s.Link(t)
	l.Close()
	core := intake.NewCore(l, intake.CoreConfig{Subject: "s", Concurrency: 1, PendingMsgs: -1, PendingBytes: -1,
		Timeout: time.Second, Run: func(wire.In, int64) {}, Failed: func(error) {}})
	if err := core.Open(); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("Open returned %v", err)
	}
}

func TestCoreCountsAndReportsWhatItDrops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		from, to := s.Link(t), s.Link(t)
		release := make(chan struct{})
		var handled atomic.Int64
		var mu sync.Mutex
		var reports []error
		core := openCore(t, to, intake.CoreConfig{PendingMsgs: 10, PendingBytes: -1,
			Run: func(wire.In, int64) { <-release; handled.Add(1) },
			Failed: func(err error) {
				mu.Lock()
				defer mu.Unlock()
				reports = append(reports, err)
			}})
		sent(t, from, 50)
		synctest.Wait()
		if msgs, bytes := core.Pending(); msgs != 9 || bytes == 0 { // of the 10 one runs
			t.Errorf("%d messages with %d bytes wait, want 9", msgs, bytes)
		}
		if core.Dropped() != 40 {
			t.Errorf("%d messages were dropped, want 40", core.Dropped())
		}
		close(release)
		if err := core.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if handled.Load() != 10 {
			t.Errorf("%d messages were handled, want 10", handled.Load())
		}
		if core.Dropped() != 40 {
			t.Errorf("after the end %d messages were dropped, want 40", core.Dropped())
		}
		mu.Lock()
		defer mu.Unlock()
		if len(reports) == 0 || !slices.ContainsFunc(reports, func(err error) bool { return errors.Is(err, nats.ErrSlowConsumer) }) {
			t.Errorf("reported: %v", reports)
		}
	})
}

func TestCoreSurvivesAReconnect(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	from, to := s.Link(t), s.Link(t)
	again := make(chan struct{}, 1)
	defer to.OnReconnect(func() { again <- struct{}{} })()
	got := make(chan string, 100)
	core := openCore(t, to, intake.CoreConfig{Run: func(in wire.In, _ int64) { got <- string(in.Data) }})
	for range 5 {
		if err := to.Conn().ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		<-again
		if err := to.Flush(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		sent(t, from, 1)
		<-got
	}
	if err := core.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if len(got) != 0 {
		t.Errorf("%d messages came twice", len(got))
	}
}

func isLeftBehind(err error) bool {
	_, ok := errors.AsType[*intake.LeftBehind](err)
	return ok
}

// A server that refuses the subscription fails the call, and nobody else is told.
func TestCoreOpenRefused(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, func(o *server.Options) {
		o.NoAuthUser = "u"
		o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Deny: []string{"s"}}}}}
	})
	l := s.Link(t)
	for _, group := range []string{"", "g"} {
		core := intake.NewCore(l, intake.CoreConfig{Subject: "s", Group: group, Concurrency: 1, PendingMsgs: -1, PendingBytes: -1,
			Timeout: 5 * time.Second, Run: func(wire.In, int64) {}, Failed: func(err error) { t.Errorf("the subscription failed: %v", err) }})
		if err := core.Open(); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("group %q: Open returned %v", group, err)
		} else if _, ok := errors.AsType[*link.RefusedError](err); !ok {
			t.Errorf("group %q: Open returned a %T", group, err)
		}
		if !closed(core.Done()) {
			t.Errorf("group %q: it is not closed", group)
		}
	}
}

// Done is closed when the handlers have returned, or nobody waits for them any
// more, however the subscription ends.
func TestCoreIsDoneAfterItsHandlers(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*intake.Core, context.Context) error{"Drain": (*intake.Core).Drain, "Close": (*intake.Core).Close} {
		for _, concurrency := range []int{1, 4} {
			for _, limit := range []time.Duration{time.Hour, time.Second} {
				t.Run(fmt.Sprint(name, ", concurrency ", concurrency, ", within ", limit), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						l := testserver.New(t).Link(t)
						core := openCore(t, l, intake.CoreConfig{Concurrency: concurrency, Run: func(wire.In, int64) { time.Sleep(time.Minute) }})
						sent(t, l, concurrency)
						synctest.Wait()
						began := time.Now()
						ctx, cancel := context.WithTimeout(t.Context(), limit)
						defer cancel()
						result := make(chan error, 1)
						go func() { result <- end(core, ctx) }()
						<-core.Done()
						late := time.Since(began) - min(time.Minute, limit)
						if late < 0 || late > 10*time.Millisecond { // it looks every 5 ms
							t.Errorf("Done is closed %v late", late)
						}
						if err := <-result; isLeftBehind(err) != (limit < time.Minute) {
							t.Errorf("it returned %v", err)
						}
						time.Sleep(time.Minute) // for handlers that nobody waited for
					})
				})
			}
		}
	}
}

// A connection that closes under a drain takes what waits with it: that is not
// drained.
func TestCoreDrainWhenTheConnectionIsClosedMeanwhile(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 4} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := testserver.New(t).Link(t)
				var handled atomic.Int64
				core := openCore(t, l, intake.CoreConfig{Concurrency: concurrency, Run: func(wire.In, int64) {
					time.Sleep(time.Minute)
					handled.Add(1)
				}})
				const n = 100
				sent(t, l, n)
				synctest.Wait()
				time.AfterFunc(90*time.Second, l.Close)
				left, ok := errors.AsType[*intake.LeftBehind](core.Drain(t.Context()))
				if !ok {
					t.Fatal("Drain says that all was handled")
				}
				if got := handled.Load(); got+int64(left.Pending) != n || left.Running != 0 || got == 0 {
					t.Errorf("%d were handled, it left %+v", got, left)
				}
			})
		})
	}
}
