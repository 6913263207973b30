package lifecycle_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/lifecycle"
)

// after returns how long ctx lives from now on.
func after(ctx context.Context, began time.Time) time.Duration {
	<-ctx.Done()
	return time.Since(began)
}

// A tenth of the time is kept for what comes after the handlers, at most a second, and the
// last flush has a little more.
func TestPhasesDivideTheTime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                          string
		limit                         time.Duration
		handling, returning, complete time.Duration
	}{
		{"long", time.Minute, 59 * time.Second, 59500 * time.Millisecond, 60100 * time.Millisecond},
		{"short", time.Second, 900 * time.Millisecond, 950 * time.Millisecond, 1100 * time.Millisecond},
		{"over", -time.Hour, 0, 0, 100 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx, cancel := context.WithDeadline(t.Context(), began.Add(c.limit))
				defer cancel()
				p := lifecycle.NewPhases(ctx)
				defer p.Release()
				if got := after(p.Handling, began); got != c.handling {
					t.Errorf("messages are handled for %v, want %v", got, c.handling)
				}
				if got := after(p.Returning, began); got != c.returning {
					t.Errorf("handlers may return for %v, want %v", got, c.returning)
				}
				if got := after(p.Sending, began); got != c.complete {
					t.Errorf("messages may be sent for %v, want %v", got, c.complete)
				}
			})
		})
	}
}

// When the context is cancelled, only the last flush is left.
func TestPhasesOfACancelledContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		p := lifecycle.NewPhases(ctx)
		defer p.Release()
		time.Sleep(time.Second)
		cancel()
		began := time.Now()
		if h, r, s := after(p.Handling, began), after(p.Returning, began), after(p.Sending, began); h != 0 || r != 0 || s != 100*time.Millisecond {
			t.Errorf("the phases ended after %v, %v, %v", h, r, s)
		}
	})
}

// Release ends all phases at once, and leaves no goroutine.
func TestPhasesRelease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		p := lifecycle.NewPhases(ctx)
		cancel()
		synctest.Wait()
		p.Release()
		began := time.Now()
		if s := after(p.Sending, began); s != 0 {
			t.Errorf("sending ended %v after Release", s)
		}
	})
}
