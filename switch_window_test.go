package bus_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
)

// windowStreams are what TestSwitchToKeepsMsgIDs stores in: S with batches, and T, both of which
// know IDs. The third one knows none.
func windowStreams(t *testing.T, b *bus.Bus) (s, other *bus.Stream) {
	t.Helper()
	s = declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, AtomicBatches: true})
	other = declare(t, b, bus.StreamConfig{Name: "T", Subjects: []string{"t.*"}})
	_, err := b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "MIRROR", Mirror: &jetstream.StreamSource{Name: "S"}})
	must(t, err)
	return s, other
}

// storeID stores a message with an ID.
func storeID(t *testing.T, st *bus.Stream, subject bus.Subject[int], id string) *bus.Ack {
	t.Helper()
	ack, err := bus.PublishTo(t.Context(), st, subject, 1, bus.MsgID(id), bus.ExpectLastSubjectSequence(0))
	must(t, err)
	return ack
}

// storeBatch stores a batch of three messages with one ID.
func storeBatch(t *testing.T, st *bus.Stream, id string, more ...bus.Item) (*bus.Ack, error) {
	t.Helper()
	return bus.PublishToBatch(t.Context(), st, append([]bus.Item{
		bus.ItemOf(bus.Subject[int]("s.batch"), 1), bus.ItemOf(bus.Subject[int]("s.batch"), 2, bus.MsgID(id)), bus.ItemOf(bus.Subject[int]("s.batch"), 3)}, more...)...)
}

// checkKnown checks that what was stored before is a duplicate in each way of storing, with the
// sequence of the first, and that new IDs are none.
func checkKnown(t *testing.T, s, other *bus.Stream, first, second, batch *bus.Ack, round string) {
	t.Helper()
	for _, c := range []struct {
		stream  *bus.Stream
		subject bus.Subject[int]
		id      string
		want    *bus.Ack
	}{{s, "s.a", "one", first}, {other, "t.a", "one", second}} {
		if got := storeID(t, c.stream, c.subject, c.id); !got.Duplicate || got.Sequence != c.want.Sequence || got.Stream != c.want.Stream {
			t.Errorf("%s: PublishTo = %+v, want the sequence %d", round, got, c.want.Sequence)
		}
		f, err := bus.PublishToAsync(t.Context(), c.stream, c.subject, 1, bus.MsgID(c.id))
		must(t, err)
		if got, err := f.Wait(t.Context()); err != nil || !got.Duplicate || got.Sequence != c.want.Sequence {
			t.Errorf("%s: PublishToAsync = %+v, %v", round, got, err)
		}
	}
	again, err := storeBatch(t, s, "in a batch")
	if err != nil || !again.Duplicate || again.Sequence != batch.Sequence || again.First != batch.First {
		t.Errorf("%s: PublishToBatch = %+v, %v; want %+v", round, again, err, batch)
	}
	_, err = storeBatch(t, s, "one")
	if e := asError[*bus.ItemError](t, err, "one"); e.Index != 1 || asError[*bus.ConflictError](t, err).Actual != first.Sequence {
		t.Errorf("%s: a batch with the ID of another message: %v", round, err)
	}
	if got, err := bus.PublishTo(t.Context(), s, bus.Subject[int]("s.b"), 1, bus.MsgID("new "+round)); err != nil || got.Duplicate {
		t.Errorf("%s: a new ID: %+v, %v", round, got, err)
	}
	if got, err := storeBatch(t, s, "new batch "+round); err != nil || got.Duplicate {
		t.Errorf("%s: a new batch: %+v, %v", round, got, err)
	}
}

// The MsgIDs that the streams knew before a switch are duplicates after it, for PublishTo,
// PublishToAsync and PublishToBatch, and after a restart of the process too. Those of a stream
// that was deleted and created again are not.
func TestSwitchToKeepsMsgIDs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		onDisk  bool
		servers int
	}{"memory to one server": {false, 1}, "disk to one server": {true, 1}, "disk to a cluster": {true, 3}} {
		t.Run(name, func(t *testing.T) {
			if c.servers > 1 {
				needsCluster(t)
			}
			t.Parallel()
			dir, opts := t.TempDir(), []bus.Option{bus.WithTimeout(30 * time.Second)}
			if c.onDisk {
				opts = append(opts, bus.WithStoreDir(dir))
			}
			_, urls := servers(t, c.servers)
			b := ownBus(t, opts...)
			s, other := windowStreams(t, b)
			first, second := storeID(t, s, "s.a", "one"), storeID(t, other, "t.a", "one")
			batch, err := storeBatch(t, s, "in a batch")
			must(t, err)
			report := switchTo(t, b, urls)
			if len(report.Warnings) > 0 {
				t.Errorf("the report has warnings: %v", report.Warnings)
			}
			checkKnown(t, s, other, first, second, batch, "after the switch")
			if c.onDisk {
				must(t, b.Close())
				b = ownBus(t, opts...)
				s, other = lookUp(t, b, "S"), lookUp(t, b, "T")
				checkKnown(t, s, other, first, second, batch, "after a restart")
			}
			must(t, other.Delete(t.Context()))
			other = declare(t, b, bus.StreamConfig{Name: "T", Subjects: []string{"t.*"}})
			if got := storeID(t, other, "t.a", "one"); got.Duplicate || got.Sequence != 1 {
				t.Errorf("in a new stream of the same name: %+v", got)
			}
		})
	}
}

// lookUp returns a stream.
func lookUp(t *testing.T, b *bus.Bus, name string) *bus.Stream {
	t.Helper()
	st, err := b.LookupStream(t.Context(), name)
	must(t, err)
	return st
}

// After the window an ID is new again, as on any server.
func TestSwitchToForgetsMsgIDsAfterTheWindow(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := ownBus(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Duplicates: time.Second})
	begin := time.Now()
	_, err := bus.PublishTo(t.Context(), st, bus.Subject[int]("s.a"), 1, bus.MsgID("one"))
	must(t, err)
	switchTo(t, b, target.ClientURL())
	eventually(t, "the ID is new again", func() bool {
		ack, err := bus.PublishTo(t.Context(), st, bus.Subject[int]("s.a"), 1, bus.MsgID("one"))
		must(t, err)
		if !ack.Duplicate && time.Since(begin) < time.Second {
			t.Fatalf("stored again after %v", time.Since(begin))
		}
		return !ack.Duplicate
	})
}

// When the window is over, the store directory has the IDs no more: not if the bus lives, nor at
// the next start.
func TestSwitchToRemovesMsgIDsAfterTheWindow(t *testing.T) {
	t.Parallel()
	for _, restarts := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarts=%t", restarts), func(t *testing.T) {
			t.Parallel()
			target, dir := newTarget(t), t.TempDir()
			b := openOn(t, dir)
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Duplicates: 2 * time.Second})
			stored := time.Now()
			storeID(t, st, "s.a", "one")
			switchTo(t, b, target.ClientURL())
			ids := filepath.Join(dir, "switch.ids")
			if _, err := os.Stat(ids); err != nil && time.Since(stored) < time.Second {
				t.Error(err)
			}
			if restarts {
				must(t, b.Close())
				openOn(t, dir)
			}
			eventually(t, "the file is removed", func() bool {
				_, err := os.Stat(ids)
				return errors.Is(err, os.ErrNotExist)
			})
			if age := time.Since(stored); age < 2*time.Second {
				t.Errorf("removed after %v", age)
			}
		})
	}
}

// A switch keeps all IDs of a large window, of a stream that is copied while publishers go on.
// BUS_TEST_SWITCH_IDS sets how many.
func TestSwitchToKeepsManyMsgIDs(t *testing.T) {
	t.Parallel()
	n, err := strconv.Atoi(os.Getenv("BUS_TEST_SWITCH_IDS"))
	if err != nil {
		n = 2000
	}
	target := newTarget(t)
	b := openOn(t, t.TempDir(), bus.WithSync(bus.SyncEvery(time.Minute)), bus.WithTimeout(5*time.Minute))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Duplicates: time.Hour})
	large := incompressible(20_000) // of the first messages, so that the stream is large
	store := func(duplicate bool) {
		t.Helper()
		var all []*bus.Future
		for i := range n {
			payload := large
			if i >= 2000 {
				payload = nil
			}
			f, err := bus.PublishToAsync(t.Context(), st, bus.Subject[[]byte]("s.a"), payload, bus.MsgID(fmt.Sprintf("an-id-of-the-usual-length-%d", i)))
			must(t, err)
			all = append(all, f)
		}
		for i, f := range all {
			ack, err := f.Wait(t.Context())
			if must(t, err); ack.Duplicate != duplicate || ack.Sequence != uint64(i+1) {
				t.Fatalf("%d: %+v", i, ack)
			}
		}
	}
	store(false)
	report := switchTo(t, b, target.ClientURL())
	if !slices.Equal(report.Live, []string{"S"}) {
		t.Errorf("copied while publishers went on: %v", report.Live)
	}
	t.Logf("%v %v", report, report.Phases)
	begin := time.Now()
	store(true)
	t.Logf("%d duplicates in %v", n, time.Since(begin))
}
