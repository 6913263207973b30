package switchover

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/switchover"
)

// undoing returns what Start needs. Each try fails as fail says, and reports has what was reported:
// the streams, or "none".
func undoing(stopping chan struct{}, fail func(ctx context.Context, n int) error) (w Undoing, tries *[]time.Time, reports *[]string) {
	tries, reports = new([]time.Time), new([]string)
	return Undoing{
		Stopping: stopping,
		Try: func(ctx context.Context) error {
			*tries = append(*tries, time.Now())
			return fail(ctx, len(*tries))
		},
		Report: func(e *switchover.FencedError) {
			if e == nil {
				*reports = append(*reports, "none")
				return
			}
			*reports = append(*reports, e.Streams...)
		},
	}, tries, reports
}

// pass lets virtual time go by and everything come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Each try begins a second after the last one, and ends after five. It goes on until one succeeds.
// The begin and the end are reported once.
func TestUndoTriesUntilItSucceeds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin, u := time.Now(), new(Undo)
		w, tries, reports := undoing(make(chan struct{}), func(ctx context.Context, n int) error {
			switch n {
			case 1:
				<-ctx.Done()
				return ctx.Err()
			case 2:
				return &switchover.FencedError{Streams: []string{"T"}}
			}
			return nil
		})
		u.Start(w, &switchover.FencedError{Streams: []string{"S", "T"}})
		if f := u.Fenced(); f == nil || !slices.Equal(f.Streams, []string{"S", "T"}) {
			t.Errorf("fenced are %v", f)
		}
		pass(7500 * time.Millisecond)
		if f := u.Fenced(); f == nil || !slices.Equal(f.Streams, []string{"T"}) {
			t.Errorf("fenced are %v after the second try", f)
		}
		pass(time.Minute)
		if u.Fenced() != nil || u.Done() {
			t.Errorf("fenced are %v after the last try", u.Fenced())
		}
		var at []time.Duration
		for _, try := range *tries {
			at = append(at, try.Sub(begin))
		}
		if want := []time.Duration{time.Second, 7 * time.Second, 8 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("it tried at %v, want %v", at, want)
		}
		if want := []string{"S", "T", "none"}; !slices.Equal(*reports, want) {
			t.Errorf("reported: %q, want %q", *reports, want)
		}
	})
}

// Streams that the first try finds fenced are reported, too. What fails for another reason says
// nothing of them.
func TestUndoFindsFencedStreams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := new(Undo)
		w, tries, reports := undoing(make(chan struct{}), func(_ context.Context, n int) error {
			return []error{errors.New("locked"), &switchover.FencedError{Streams: []string{"S"}}, errors.New("locked"), nil}[n-1]
		})
		u.Start(w, nil)
		pass(3500 * time.Millisecond)
		if f := u.Fenced(); f == nil || !slices.Equal(f.Streams, []string{"S"}) {
			t.Errorf("fenced are %v", f)
		}
		pass(time.Minute)
		if want := []string{"S", "none"}; len(*tries) != 4 || !slices.Equal(*reports, want) {
			t.Errorf("after %d tries, reported: %q, want %q", len(*tries), *reports, want)
		}
	})
}

// What hinders a loop is known until a try finds out more, and not reported as a fence.
func TestUndoIsHindered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u, locked := new(Undo), errors.New("locked")
		w, _, reports := undoing(make(chan struct{}), func(_ context.Context, n int) error {
			return []error{locked, &switchover.FencedError{Streams: []string{"S"}}, nil}[n-1]
		})
		w.Hindered = locked
		u.Start(w, nil)
		pass(1500 * time.Millisecond)
		if !errors.Is(u.Hindered(), locked) || u.Fenced() != nil {
			t.Errorf("hindered is %v, fenced are %v", u.Hindered(), u.Fenced())
		}
		pass(time.Second)
		if u.Hindered() != nil || u.Fenced() == nil {
			t.Errorf("then hindered is %v, fenced are %v", u.Hindered(), u.Fenced())
		}
		pass(time.Minute)
		if want := []string{"S", "none"}; !slices.Equal(*reports, want) {
			t.Errorf("reported: %q, want %q", *reports, want)
		}
	})
}

// A loop ends with Stop, with the next Start, and with the bus, also while it tries; a bubble fails if a goroutine is left. What is fenced stays known, and is not reported again.
func TestUndoEnds(t *testing.T) {
	t.Parallel()
	wait := func(ctx context.Context, _ int) error { <-ctx.Done(); return nil }
	for name, end := range map[string]func(u *Undo, w Undoing, stopping chan struct{}){
		"Stop":  func(u *Undo, _ Undoing, _ chan struct{}) { u.Stop(); u.Stop() },
		"bus":   func(_ *Undo, _ Undoing, stopping chan struct{}) { close(stopping) },
		"Start": func(u *Undo, w Undoing, _ chan struct{}) { u.Start(w, nil); u.Stop() },
	} {
		for _, after := range []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond} { // before the first try, and in it
			t.Run(name+" after "+after.String(), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					u, stopping := new(Undo), make(chan struct{})
					w, tries, reports := undoing(stopping, wait)
					u.Start(w, &switchover.FencedError{Streams: []string{"S"}})
					pass(after)
					end(u, w, stopping)
					pass(time.Minute)
					if want := int(after / time.Second); len(*tries) != want {
						t.Errorf("it tried %d times, want %d", len(*tries), want)
					}
					if f := u.Fenced(); f == nil || !slices.Equal(*reports, []string{"S"}) {
						t.Errorf("fenced are %v, reported was %q", f, *reports)
					}
					if !u.Done() || u.Done() || u.Fenced() != nil {
						t.Error("it does not forget what is done")
					}
				})
			})
		}
	}
}
