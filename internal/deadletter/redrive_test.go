package deadletter

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// copies returns the copies in S-retry, in the order in which they were stored.
func (w *world) copies(t *testing.T) (all []*sidestream.Copy) {
	t.Helper()
	for next := uint64(1); ; {
		m, err := w.store.Retries.GetMsg(t.Context(), next, jetstream.WithGetMsgSubject(">"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return all
		}
		must(t, err)
		c, err := sidestream.ParseCopy(wire.Header(m.Header), m.Data)
		must(t, err)
		all, next = append(all, c), m.Sequence+1
	}
}

// one returns the only dead letter.
func (w *world) one(t *testing.T) *Message {
	t.Helper()
	var one *Message
	for m, err := range w.All(t.Context(), Filter{}) {
		must(t, err)
		one = m
	}
	return one
}

// Dead letters come back in the order of the stream, not of their deaths, as new messages.
func TestRedrive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, sequence := range []uint64{3, 1, 2} {
		w.bury(t, sequence, "error")
	}
	if n, err := w.Redrive(t.Context(), Filter{Subject: "s.1"}, 0); n != 2 || err != nil {
		t.Errorf("redrove %d, %v", n, err)
	}
	var got []uint64
	for _, c := range w.copies(t) {
		got = append(got, c.Sequence)
		if c.Attempts != 0 || c.Cause != "" || string(c.Data) != "old" || !slices.Equal(c.Header["Tenant"][:1], []string{"a"}) {
			t.Errorf("got %+v", c)
		}
	}
	if !slices.Equal(got, []uint64{1, 3}) || !slices.Equal(w.sequences(t, Filter{}), []uint64{2}) {
		t.Errorf("copies %v, dead letters %v", got, w.sequences(t, Filter{}))
	}
}

// A process dies between the two steps of a redrive. The next redrive only removes the dead
// letter.
func TestRedriveGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bury(t, 1, "error")
	m := w.one(t)
	if earlier, err := w.store1(t, m); earlier != 0 || err != nil {
		t.Fatalf("got %d, %v", earlier, err)
	}
	if earlier, err := w.store1(t, m); earlier != 1 || err != nil {
		t.Fatalf("got %d, %v", earlier, err)
	}
	if n, err := w.Redrive(t.Context(), Filter{}, 0); n != 1 || err != nil {
		t.Errorf("redrove %d, %v", n, err)
	}
	if n, c := len(w.sequences(t, Filter{})), len(w.copies(t)); n != 0 || c != 1 {
		t.Errorf("%d dead letters, %d copies", n, c)
	}
}

// store1 is the first step of a redrive of m.
func (w *world) store1(t *testing.T, m *Message) (earlier uint64, err error) {
	return w.Queue.store(t.Context(), m, m.redriven())
}

// The copy that failed again is still in S-retry, since it is not terminated yet. The next
// copy goes after it.
func TestRedriveBehindWhatFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bury(t, 1, "error")
	must(t, second(w.Redrive(t.Context(), Filter{}, 0)))
	w.bury(t, 1, "again")
	must(t, second(w.Redrive(t.Context(), Filter{}, 0)))
	if n, c := len(w.sequences(t, Filter{})), len(w.copies(t)); n != 0 || c != 2 {
		t.Errorf("%d dead letters, %d copies", n, c)
	}
}

func second[T any](_ T, err error) error { return err }

func TestRedriveWithoutConsumer(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{"S", "S-retry"} {
		w := newWorld(t)
		w.bury(t, 1, "error")
		must(t, w.core.JetStream.DeleteConsumer(t.Context(), stream, "d"))
		m := w.one(t)
		for _, err := range []error{second(w.Redrive(t.Context(), Filter{}, 0)), w.RedriveAs(t.Context(), m, nil, nil)} {
			if gone, ok := errors.AsType[*NoConsumerError](err); !ok || *gone != (NoConsumerError{"S", "d"}) {
				t.Errorf("%s: got %v", stream, err)
			}
		}
		if n, c := len(w.sequences(t, Filter{})), len(w.copies(t)); n != 1 || c != 0 {
			t.Errorf("%s: %d dead letters, %d copies", stream, n, c)
		}
	}
}

// The context ends during the pause: what was redriven stays so.
func TestRedrivePause(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bury(t, 1, "error")
	w.bury(t, 2, "error")
	errEnough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errEnough)
	defer cancel()
	if n, err := w.Redrive(ctx, Filter{}, time.Hour); n != 1 || !errors.Is(err, errEnough) {
		t.Errorf("redrove %d, %v", n, err)
	}
}

// A dead letter that only refers to its message takes it from the stream.
func TestRedriveReference(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, second(w.core.JetStream.Publish(t.Context(), "s.0", []byte("large"))))
	st, err := w.core.JetStream.Stream(t.Context(), "S")
	must(t, err)
	raw, err := st.GetMsg(t.Context(), 1)
	must(t, err)
	refer := func(sequence uint64) {
		a := w.store.Address(sequence)
		c := sidestream.Copy{Subject: "s.0", Data: []byte("large"), Stream: "S", Sequence: sequence, Time: raw.Time, Cause: "error", Reference: true}
		must(t, sidestream.StoreCopy(t.Context(), w.core, sidestream.Dead, c.Message(a.Subject(sidestream.Dead))))
	}
	refer(1)
	must(t, second(w.Redrive(t.Context(), Filter{}, 0)))
	if c := w.copies(t); len(c) != 1 || string(c[0].Data) != "large" {
		t.Errorf("got %+v", c)
	}
	refer(2)
	if n, err := w.Redrive(t.Context(), Filter{}, 0); n != 0 || err == nil || !strings.Contains(err.Error(), "message 2 is not in the stream any more") {
		t.Errorf("got %d, %v", n, err)
	}
}

func TestRedriveAs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bury(t, 1, "error")
	m := w.one(t)
	header := func(at string) wire.Header { return wire.Header{"Tenant": {"b"}, wire.HeaderBusEdited: {at}} }
	edited := m.redriven()
	edited.Header, edited.Data = header("then"), []byte("new")
	must(t, second(w.Queue.store(t.Context(), m, edited))) // an earlier call that a crash interrupted
	if err := w.RedriveAs(t.Context(), m, header("now"), []byte("other")); err == nil || !strings.Contains(err.Error(), "waits for its consumer already") {
		t.Errorf("another payload: %v", err)
	}
	must(t, w.RedriveAs(t.Context(), m, header("now"), []byte("new")))
	if c := w.copies(t); len(c) != 1 || string(c[0].Data) != "new" || c[0].DeadLetter != m.Position || c[0].Header["Tenant"][0] != "b" {
		t.Errorf("got %+v", c)
	}
	if err := w.RedriveAs(t.Context(), m, header("now"), []byte("new")); err == nil || !strings.Contains(err.Error(), "does not exist any more") {
		t.Errorf("again: %v", err)
	}
}
