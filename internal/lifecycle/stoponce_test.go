package lifecycle_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/lifecycle"
)

var errStopped = errors.New("stopped with something left")

// stopper counts how often it was stopped.
type stopper struct {
	once  *lifecycle.StopOnce
	stops atomic.Int64
}

// stop stops s within ctx, by work. inHandler says whether the caller is one of its handlers.
func (s *stopper) stop(ctx context.Context, inHandler bool, work func()) error {
	return s.once.Do(ctx, func() error {
		s.stops.Add(1)
		work()
		return errStopped
	}, func(context.Context) bool { return inHandler }, func(why error) error { return why })
}

// All callers get the result of the first call, which does the work alone.
func TestStopOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &stopper{once: lifecycle.NewStopOnce()}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := s.stop(t.Context(), false, func() { time.Sleep(time.Second) }); !errors.Is(err, errStopped) {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		select {
		case <-s.once.Done():
			t.Error("done before the work")
		default:
		}
		wg.Wait()
		<-s.once.Done()
		if n := s.stops.Load(); n != 1 {
			t.Errorf("stopped %d times", n)
		}
	})
}

// A later call does not wait longer than its context, nor where the first call waits for
// its caller.
func TestStopOnceDoesNotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &stopper{once: lifecycle.NewStopOnce()}
		release := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.stop(t.Context(), false, func() { <-release }) })
		synctest.Wait()
		if err := s.stop(t.Context(), true, nil); err != nil {
			t.Errorf("a handler got %v", err)
		}
		reason := errors.New("no time")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(reason)
		if err := s.stop(ctx, false, nil); !errors.Is(err, reason) {
			t.Errorf("a call with an ended context got %v", err)
		}
		close(release)
		wg.Wait()
	})
}
