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

// trail records what happens, in order.
type trail struct {
	mu   sync.Mutex
	list []string
}

func (tr *trail) add(text string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.list = append(tr.list, text)
}

func (tr *trail) take() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	list := tr.list
	tr.list = nil
	return list
}

var errBusy = errors.New("a handler runs")

// part is a Quiescer with handlers: Quiesce waits while busy is open.
type part struct {
	name     string
	trail    *trail
	busy     chan struct{} // nil: nothing runs
	quiesced atomic.Bool
}

func (p *part) Quiesce(ctx context.Context) error {
	p.quiesced.Store(true)
	p.trail.add("quiesce " + p.name)
	if p.busy == nil {
		return nil
	}
	select {
	case <-p.busy:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w: %w", p.name, errBusy, context.Cause(ctx))
	}
}

func (p *part) Resume() {
	p.quiesced.Store(false)
	p.trail.add("resume " + p.name)
}

// parts is a registry with a member of each stage and two senders.
type parts struct {
	lifecycle.Registry
	trail
	all []*part
}

// newParts returns one whose subscriber runs until busy is closed; nil: nothing runs.
func newParts(t *testing.T, busy chan struct{}) *parts {
	t.Helper()
	ps := &parts{}
	for _, name := range []string{"subscriber", "responder", "buffer", "gate"} {
		ps.all = append(ps.all, &part{name: name, trail: &ps.trail})
	}
	ps.all[0].busy = busy
	ps.SetSenders(ps.all[2], ps.all[3])
	for i, stage := range []lifecycle.Stage{lifecycle.StageSubscribers, lifecycle.StageResponders} {
		m := &member{name: ps.all[i].name, drain: func(context.Context) error {
			ps.add(fmt.Sprintf("drain %s, quiesced %t", ps.all[i].name, ps.all[i].quiesced.Load()))
			return nil
		}}
		if err := ps.Add(stage, m, ps.all[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := ps.Add(lifecycle.StageDiscovery, &member{name: "discovery"}, nil); err != nil {
		t.Fatal(err)
	}
	return ps
}

// expect compares what has happened.
func (ps *parts) expect(t *testing.T, want ...string) {
	t.Helper()
	if got := ps.take(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// quiesced checks whether all are quiesced, or none is.
func (ps *parts) quiesced(t *testing.T, want bool) {
	t.Helper()
	for _, p := range ps.all {
		if p.quiesced.Load() != want {
			t.Errorf("%s is quiesced: %t", p.name, !want)
		}
	}
}

// Those that handle messages are quiesced before what they need, and resumed after it.
func TestQuiesceGoesByStages(t *testing.T) {
	t.Parallel()
	ps := newParts(t, nil)
	ps.Resume() // without Quiesce
	ps.expect(t)
	for range 2 { // twice
		if err := ps.Quiesce(t.Context()); err != nil {
			t.Error(err)
		}
		ps.expect(t, "quiesce subscriber", "quiesce responder", "quiesce buffer", "quiesce gate")
	}
	ps.Resume()
	ps.expect(t, "resume gate", "resume buffer", "resume responder", "resume subscriber")
	ps.Resume()
	ps.expect(t)
}

// When the context ends first, all is quiesced, and the error names what runs.
func TestQuiesceSaysWhatStillRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		busy := make(chan struct{})
		ps := newParts(t, busy)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := ps.Quiesce(ctx)
		e, ok := errors.AsType[*lifecycle.StillRunningError](err)
		if !ok || len(e.Running) != 1 || e.Running[0].Member.(*member).name != "subscriber" || !errors.Is(err, errBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		ps.quiesced(t, true)
		again := make(chan error, 1)
		go func() { again <- ps.Quiesce(t.Context()) }()
		synctest.Wait()
		if len(again) > 0 {
			t.Error("it did not wait")
		}
		close(busy)
		if err := <-again; err != nil {
			t.Error(err)
		}
		ps.quiesced(t, true)
		ps.Resume()
		ps.quiesced(t, false)
	})
}

// Resume ends a Quiesce that waits.
func TestResumeWhileItQuiesces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ps := newParts(t, make(chan struct{}))
		result := make(chan error, 1)
		go func() { result <- ps.Quiesce(t.Context()) }()
		synctest.Wait()
		ps.Resume()
		if err := <-result; !errors.Is(err, lifecycle.ErrResumed) {
			t.Errorf("got %v", err)
		}
		ps.quiesced(t, false)
	})
}

// Close of a quiesced registry resumes before it drains, and ends a Quiesce that waits.
func TestCloseWhileQuiesced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ps := newParts(t, make(chan struct{}))
		result := make(chan error, 1)
		go func() { result <- ps.Quiesce(t.Context()) }()
		synctest.Wait()
		ps.take()
		if err := ps.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-result; !errors.Is(err, lifecycle.ErrResumed) {
			t.Errorf("got %v", err)
		}
		got := ps.take()
		if want := []string{"drain subscriber, quiesced false", "drain responder, quiesced false"}; len(got) < 2 || !slices.Equal(got[len(got)-2:], want) {
			t.Errorf("got %q", got)
		}
		if err := ps.Quiesce(t.Context()); !errors.Is(err, lifecycle.ErrClosed) {
			t.Errorf("got %v", err)
		}
		ps.quiesced(t, false)
	})
}

// What is added meanwhile is quiesced, too.
func TestAddWhileQuiesced(t *testing.T) {
	t.Parallel()
	ps := newParts(t, nil)
	if err := ps.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := &part{name: "new", trail: &ps.trail, busy: make(chan struct{})}
	if err := ps.Add(lifecycle.StageSubscribers, &member{}, p); err != nil {
		t.Fatal(err)
	}
	if !p.quiesced.Load() {
		t.Error("it is not quiesced")
	}
	ps.Resume()
	if p.quiesced.Load() {
		t.Error("it did not resume")
	}
}

// Whatever comes together, in the end all is as the last call says.
func TestQuiesceAndResumeConcurrently(t *testing.T) {
	t.Parallel()
	ps := newParts(t, make(chan struct{}))
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			for n := range 50 {
				if (i+n)%3 == 0 {
					ps.Resume()
					continue
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n%4)*50*time.Microsecond)
				if err := ps.Quiesce(ctx); err == nil {
					t.Error("nobody runs, it said")
				}
				cancel()
				if (i+n)%5 == 0 {
					m := &member{}
					if err := ps.Add(lifecycle.StageResponders, m, &part{trail: &ps.trail}); err != nil {
						t.Error(err)
					}
					ps.Remove(m)
				}
			}
		})
	}
	wg.Wait()
	ps.Resume()
	ps.quiesced(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = ps.Quiesce(ctx)
	ps.quiesced(t, true)
}

// An Exclusive waits for who has the mutex, keeps it, and gives it up once.
func TestExclusive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var tr trail
		var mutex lifecycle.Mutex
		p := &part{name: "consumer", trail: &tr}
		e := lifecycle.NewExclusive(&mutex, func() lifecycle.Quiescer { return p })
		unlock, err := mutex.Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := e.Quiesce(ctx); !errors.Is(err, context.DeadlineExceeded) || p.quiesced.Load() {
			t.Errorf("got %v, quiesced %t", err, p.quiesced.Load())
		}
		unlock()
		for range 2 {
			if err := e.Quiesce(t.Context()); err != nil || !p.quiesced.Load() {
				t.Errorf("got %v, quiesced %t", err, p.quiesced.Load())
			}
			if _, err := mutex.Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the mutex is free: %v", err)
			}
		}
		e.Resume()
		e.Resume()
		if unlock, err = mutex.Lock(t.Context()); err != nil || p.quiesced.Load() {
			t.Errorf("got %v, quiesced %t", err, p.quiesced.Load())
		}
		waits := make(chan error, 1)
		go func() { waits <- e.Quiesce(t.Context()) }()
		synctest.Wait()
		e.Release()
		unlock()
		if err := <-waits; err != nil {
			t.Error(err)
		}
		if unlock, err = mutex.Lock(t.Context()); err != nil {
			t.Errorf("it has the mutex after Release: %v", err)
		}
		unlock()
	})
}
