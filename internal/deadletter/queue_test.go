package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/testserver/testcore"
	"github.com/omnibus-go/bus/internal/wire"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a stream S with a durable d.
type world struct {
	*Queue
	core  *core.Core
	store *sidestream.Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	c := testcore.New(t, testserver.New(t, testserver.WithJetStream))
	st, err := c.JetStream.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	must(t, err)
	_, err = c.JetStream.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy})
	must(t, err)
	store, err := sidestream.Open(t.Context(), c, sidestream.Stream{Name: "S", Incarnation: sidestream.IncarnationOf(st.CachedInfo())}, "d", time.Minute)
	must(t, err)
	return &world{Queue: Of(c, "S"), core: c, store: store}
}

// bury stores a dead letter of the message with a sequence, and returns the message.
func (w *world) bury(t *testing.T, sequence uint64, cause string) *wire.Delivery {
	t.Helper()
	d := &wire.Delivery{In: wire.In{Subject: fmt.Sprintf("s.%d", sequence%2), Header: wire.Header{"Tenant": {"a", fmt.Sprint(sequence)}}, Data: []byte("old")},
		Stored: &wire.Stored{Stream: "S", Sequence: sequence, Attempt: 3, Dead: errors.New("no luck"), Time: time.Unix(1_800_000_000, int64(sequence))}}
	must(t, w.store.PutDeadLetter(t.Context(), d, cause))
	return d
}

// sequences lists the sequences of the dead letters that match f.
func (w *world) sequences(t *testing.T, f Filter) []uint64 {
	t.Helper()
	var all []uint64
	for m, err := range w.All(t.Context(), f) {
		must(t, err)
		all = append(all, m.Sequence)
	}
	return all
}

func TestFilter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, cause := range []string{"error", "panic", "error", "invalid"} {
		w.bury(t, uint64(4-i), cause)
	}
	now := time.Now()
	for name, tc := range map[string]struct {
		filter Filter
		want   []uint64
	}{
		"all":            {Filter{}, []uint64{4, 3, 2, 1}},
		"durable":        {Filter{Durable: "d"}, []uint64{4, 3, 2, 1}},
		"no such":        {Filter{Durable: "x"}, nil},
		"subject":        {Filter{Subject: "*.1"}, []uint64{3, 1}},
		"cause":          {Filter{Cause: "error"}, []uint64{4, 2}},
		"sequence":       {Filter{Sequence: 3}, []uint64{3}},
		"header":         {Filter{Header: map[string][]string{"tenant": {"a", "2"}}}, []uint64{2}},
		"another header": {Filter{Header: map[string][]string{"tenant": {"b"}}}, nil},
		"from":           {Filter{From: now.Add(-time.Hour)}, []uint64{4, 3, 2, 1}},
		"from later":     {Filter{From: now.Add(time.Hour)}, nil},
		"to":             {Filter{To: now.Add(time.Hour)}, []uint64{4, 3, 2, 1}},
		"to earlier":     {Filter{To: now.Add(-time.Hour)}, nil},
		"match":          {Filter{Cause: "error", Match: func(m *Message) (bool, error) { return m.Sequence == 2, nil }}, []uint64{2}},
	} {
		if got := w.sequences(t, tc.filter); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
		if n, err := w.Count(t.Context(), tc.filter); n != len(tc.want) || err != nil {
			t.Errorf("%s: counted %d, %v, want %d", name, n, err, len(tc.want))
		}
	}
	for m, err := range w.All(t.Context(), Filter{}) {
		if err != nil || m.Sequence != 4 || m.Address.Durable != "d" || m.Position != 1 || m.DeadAt.Before(now.Add(-time.Minute)) || m.Attempts != 3 {
			t.Errorf("got %+v, %v", m, err)
		}
		break
	}
}

// An error of Match ends each operation, and comes back as it is.
func TestMatchFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bury(t, 1, "error")
	errMatch := errors.New("panicked")
	f := Filter{Match: func(*Message) (bool, error) { return false, errMatch }}
	for _, err := range w.All(t.Context(), f) {
		if err != errMatch { // it must not be wrapped
			t.Errorf("got %v", err)
		}
	}
	for name, call := range map[string]func() (int, error){
		"Count":   func() (int, error) { return w.Count(t.Context(), f) },
		"Discard": func() (int, error) { return w.Discard(t.Context(), f) },
		"Redrive": func() (int, error) { return w.Redrive(t.Context(), f, 0) },
	} {
		if n, err := call(); n != 0 || !errors.Is(err, errMatch) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

func TestDiscard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range uint64(4) {
		w.bury(t, i+1, "error")
	}
	if n, err := w.Discard(t.Context(), Filter{Subject: "s.1"}); n != 2 || err != nil {
		t.Errorf("discarded %d, %v", n, err)
	}
	if got := w.sequences(t, Filter{}); !slices.Equal(got, []uint64{2, 4}) {
		t.Errorf("left: %v", got)
	}
	// Somebody else is faster.
	for m, err := range w.All(t.Context(), Filter{}) {
		must(t, err)
		must(t, w.store.DeadLetters.DeleteMsg(t.Context(), m.Position))
		must(t, w.remove(t.Context(), m))
	}
}

// A stream that nobody has consumed has no dead letters, which is no error.
func TestWithoutSideStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := sidestream.DeleteAll(t.Context(), w.core, "S")
	must(t, err)
	if n, err := w.Count(t.Context(), Filter{}); n != 0 || err != nil {
		t.Errorf("counted %d, %v", n, err)
	}
	if n, err := w.Redrive(t.Context(), Filter{}, 0); n != 0 || err != nil {
		t.Errorf("redrove %d, %v", n, err)
	}
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bury(t, 1, "error")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.Discard(ctx, Filter{})
	if failed, ok := errors.AsType[*jserr.Error](err); !ok || failed.Stream != "S-dead" || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
