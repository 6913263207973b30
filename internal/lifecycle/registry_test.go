package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/lifecycle"
)

// member is a Member that does what a test says.
type member struct {
	name  string
	drain func(context.Context) error // nil: nothing
}

func (m *member) Drain(ctx context.Context) error {
	if m.drain == nil {
		return nil
	}
	return m.drain(ctx)
}

// idle is a Quiescer that never runs anything.
type idle struct{}

func (idle) Quiesce(context.Context) error { return nil }
func (idle) Resume()                       {}

func add(t *testing.T, r *lifecycle.Registry, stage lifecycle.Stage, m lifecycle.Member) {
	t.Helper()
	if err := r.Add(stage, m, idle{}); err != nil {
		t.Fatal(err)
	}
}

// names returns the sorted names of r's members.
func names(r *lifecycle.Registry) []string {
	var all []string
	for _, m := range r.Members() {
		all = append(all, m.(*member).name)
	}
	slices.Sort(all)
	return all
}

func TestMembers(t *testing.T) {
	t.Parallel()
	var r lifecycle.Registry // the zero value
	expect := func(want ...string) {
		t.Helper()
		if got := names(&r); !slices.Equal(got, want) {
			t.Errorf("the members are %v, want %v", got, want)
		}
	}
	expect()
	a, b, c := &member{name: "a"}, &member{name: "b"}, &member{name: "c"}
	r.Remove(a) // absent, in an empty registry
	add(t, &r, 1, a)
	add(t, &r, 0, b)
	add(t, &r, 1, c)
	expect("a", "b", "c")
	list := r.Members()
	r.Remove(b)
	r.Remove(b) // absent
	expect("a", "c")
	if len(list) != 3 {
		t.Errorf("an earlier list has changed: %v", list)
	}
	add(t, &r, 1, a) // again: there is one
	expect("a", "c")
}

// Members end stage after stage; the next stage begins when the last member of
// the one before has ended.
func TestCloseGoesByStages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r lifecycle.Registry
		var mu sync.Mutex
		var trail []string
		began := time.Now()
		for _, m := range []struct {
			stage lifecycle.Stage
			takes time.Duration
		}{{2, 0}, {-1, 3 * time.Second}, {0, time.Second}, {0, 2 * time.Second}, {0, 2 * time.Second}, {7, time.Second}} {
			add(t, &r, m.stage, &member{drain: func(context.Context) error {
				at := time.Since(began)
				time.Sleep(m.takes)
				mu.Lock()
				defer mu.Unlock()
				trail = append(trail, fmt.Sprintf("%d: %v to %v", m.stage, at, time.Since(began)))
				return nil
			}})
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
		want := []string{"-1: 0s to 3s", "0: 3s to 4s", "0: 3s to 5s", "0: 3s to 5s", "2: 5s to 5s", "7: 5s to 6s"}
		if !slices.Equal(trail, want) {
			t.Errorf("they ended like this: %q\nwant %q", trail, want)
		}
	})
}

// All members of a stage end at the same time: here each waits for all others.
func TestStageEndsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r lifecycle.Registry
		const n = 20
		var here atomic.Int64
		all := make(chan struct{})
		for range n {
			add(t, &r, 3, &member{drain: func(ctx context.Context) error {
				if here.Add(1) == n {
					close(all)
				}
				select {
				case <-all:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Errorf("%d of %d began: %v", here.Load(), n, err)
		}
	})
}

// One that fails keeps nobody else from ending, and every error is returned.
func TestCloseJoinsErrors(t *testing.T) {
	t.Parallel()
	var r lifecycle.Registry
	var ended atomic.Int64
	var errs []error
	for stage := range lifecycle.Stage(3) {
		for i := range 3 {
			var err error
			if i > 0 {
				err = fmt.Errorf("stage %d, member %d", stage, i)
				errs = append(errs, err)
			}
			add(t, &r, stage, &member{drain: func(context.Context) error {
				ended.Add(1)
				return err
			}})
		}
	}
	got := r.Close(t.Context())
	for _, err := range errs {
		if !errors.Is(got, err) {
			t.Errorf("the error does not contain %q", err)
		}
	}
	joined, ok := got.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != len(errs) || ended.Load() != 9 {
		t.Errorf("%d ended, the error is %v", ended.Load(), got)
	}
}

// The members get the context of Close, and are drained even if it has ended.
func TestCloseWithAnEndedContext(t *testing.T) {
	t.Parallel()
	var r lifecycle.Registry
	reason := errors.New("no time")
	for stage := range lifecycle.Stage(2) {
		add(t, &r, stage, &member{drain: func(ctx context.Context) error { return context.Cause(ctx) }})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	got, ok := r.Close(ctx).(interface{ Unwrap() []error })
	if !ok || len(got.Unwrap()) != 2 || !errors.Is(got.Unwrap()[0], reason) || !errors.Is(got.Unwrap()[1], reason) {
		t.Errorf("Close returned %v, want %v twice", got, reason)
	}
}

func TestAddAfterClose(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"empty", "with a member", "from a member"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			var r lifecycle.Registry
			late := &member{drain: func(context.Context) error {
				t.Error("a member that was refused is drained")
				return nil
			}}
			refused := func() {
				t.Helper()
				if err := r.Add(0, late, idle{}); !errors.Is(err, lifecycle.ErrClosed) {
					t.Errorf("Add returned %v", err)
				}
				if slices.Contains(r.Members(), lifecycle.Member(late)) {
					t.Error("it is a member all the same")
				}
			}
			switch when {
			case "with a member":
				add(t, &r, 0, &member{})
			case "from a member":
				add(t, &r, 0, &member{drain: func(context.Context) error { refused(); return nil }})
			}
			if err := r.Close(t.Context()); err != nil {
				t.Error(err)
			}
			refused()
		})
	}
}

// Members take themselves off the list while they are drained; those of a later
// stage that do so early are drained once all the same.
func TestRemoveWhileItCloses(t *testing.T) {
	t.Parallel()
	var r lifecycle.Registry
	var drained [3]atomic.Int64
	members := make([]*member, 3)
	for i := range members {
		members[i] = &member{drain: func(context.Context) error {
			drained[i].Add(1)
			r.Remove(members[i])
			if i == 0 {
				r.Remove(members[2])
			}
			return nil
		}}
		add(t, &r, lifecycle.Stage(i), members[i])
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for i := range drained {
		if n := drained[i].Load(); n != 1 {
			t.Errorf("member %d was drained %d times", i, n)
		}
	}
	if left := r.Members(); len(left) != 0 {
		t.Errorf("%d members are left", len(left))
	}
	if err := r.Close(t.Context()); err != nil {
		t.Errorf("Close again: %v", err)
	}
	if n := drained[0].Load(); n != 1 {
		t.Errorf("the second Close drained again")
	}
}

// TestConcurrentUse adds and removes members while the registry closes. Whoever
// was let in and had not left is drained, once.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	var r lifecycle.Registry
	var wg sync.WaitGroup
	const users = 8
	var stayed, drained, refused atomic.Int64
	enough := make(chan struct{})
	for u := range users {
		wg.Go(func() {
			for n := 0; ; n++ {
				var once atomic.Bool
				m := &member{drain: func(context.Context) error {
					if once.Swap(true) {
						t.Error("a member is drained twice")
					}
					drained.Add(1)
					return nil
				}}
				if err := r.Add(lifecycle.Stage(n%3), m, idle{}); err != nil {
					if !errors.Is(err, lifecycle.ErrClosed) {
						t.Error(err)
					}
					refused.Add(1)
					return
				}
				r.Members()
				if u == 0 && n == 100 {
					close(enough)
				}
				if n%10 == 0 {
					stayed.Add(1)
					continue
				}
				r.Remove(m) // Close may drain it before
			}
		})
	}
	<-enough
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	// One for each user may have been on the list for a moment.
	if d, s := drained.Load(), stayed.Load(); d < s || d > s+users {
		t.Errorf("%d drained, %d had stayed", d, s)
	}
	if refused.Load() != users {
		t.Errorf("%d users were refused, want %d", refused.Load(), users)
	}
}
