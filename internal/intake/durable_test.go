package intake_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// window is what a Durable of small concurrency may have asked for and hold.
const window = 256

var errFailed = errors.New("failed")

var (
	done   = settle.Outcome{}
	failed = settle.Outcome{Err: errFailed}
)

func after(d time.Duration) settle.Outcome {
	return settle.Outcome{Err: errFailed, Asked: true, After: d}
}

// reports are what a Durable reported.
type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func (r *reports) list() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.errs)
}

// durable is a Durable under test and what it reports.
type durable struct {
	*intake.Durable
	*reports
}

// open makes a Durable on a connection of its own that run handles the messages
// of. The caller starts it.
func open(t *testing.T, o *fakeServer, concurrency int, run func(wire.Delivery) settle.Outcome, changes ...func(*intake.DurableConfig)) *durable {
	t.Helper()
	r := new(reports)
	c := intake.DurableConfig{
		Source:      intake.Source{Next: nextSubject},
		Concurrency: concurrency,
		Window:      window,
		AckWait:     30 * time.Second,
		Policy:      settle.Policy{MinBackoff: 100 * time.Millisecond, MaxBackoff: time.Minute},
		Timeout:     5 * time.Second,
		Run:         run,
		Settling:    func(wire.Delivery, string) func(error) { return func(error) {} },
		Report:      r.add,
	}
	for _, change := range changes {
		change(&c)
	}
	d, err := intake.OpenDurable(o.link, c)
	if err != nil {
		t.Fatal(err)
	}
	return &durable{d, r}
}

// drained ends d, which must succeed.
func (d *durable) drained(t *testing.T) {
	t.Helper()
	if err := d.Drain(t.Context()); err != nil {
		t.Errorf("Drain: %v", err)
	}
	if !closed(d.Done()) {
		t.Error("Done is open after Drain")
	}
}

func TestOpenDurableOnAClosedConnection(t *testing.T) {
	t.Parallel()
	o := newFakeServer(t)
	o.link.Close()
	_, err := intake.OpenDurable(o.link, intake.DurableConfig{Source: intake.Source{Next: nextSubject}, Concurrency: 1, Report: func(error) {}})
	if !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("got %v", err)
	}
}
