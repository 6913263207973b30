package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/settle"
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

// newConfig returns the config of durable d of a new stream S.
func newConfig(t *testing.T) Config {
	t.Helper()
	c := testcore.New(t, testserver.New(t, testserver.WithJetStream))
	return Config{Core: c, Store: newStore(t, c), Stream: "S", MaxCrashes: 2, Cause: cause, Handlers: t.Context()}
}

func newStore(t *testing.T, c *core.Core) *sidestream.Store {
	t.Helper()
	st, err := c.JetStream.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S"})
	must(t, err)
	store, err := sidestream.Open(t.Context(), c, sidestream.Stream{Name: "S", Incarnation: sidestream.IncarnationOf(st.CachedInfo())}, "d", time.Minute)
	must(t, err)
	return store
}

// cause is how the tests name failures.
func cause(err error) string {
	if f, ok := errors.AsType[*settle.Failure](err); ok {
		return f.Cause
	}
	return fmt.Sprintf("%T", err)
}

func open(t *testing.T, c Config) *Log {
	t.Helper()
	l, err := Open(t.Context(), c)
	must(t, err)
	return l
}

// delivery returns a message of the stream that was delivered so often.
func delivery(sequence uint64, deliveries int) wire.Delivery {
	return wire.Delivery{In: wire.In{Subject: "s"}, Stored: &wire.Stored{Stream: "S", Sequence: sequence, SourceSequence: sequence,
		Deliveries: deliveries, Attempt: 1, Time: time.Unix(1_800_000_000, int64(sequence))}}
}

// isolation restores d and returns how it runs.
func isolation(l *Log, d wire.Delivery) wire.Isolation {
	l.Restore(d)
	d.Stored.Restored = true
	return d.Stored.Isolation
}

// Who runs how, without any record.
func TestRestore(t *testing.T) {
	t.Parallel()
	c := newConfig(t)
	l := open(t, c)
	returned := delivery(3, 1)
	returned.Stored.Source = 1
	c.MaxCrashes = 0
	unlimited := open(t, c)
	for name, got := range map[string]struct{ have, want wire.Isolation }{
		"new":                {isolation(l, delivery(1, 1)), wire.NotIsolated},
		"redelivered":        {isolation(l, delivery(2, 2)), wire.Alone},
		"from S-retry":       {isolation(l, returned), wire.Marked},
		"crashes unlimited":  {isolation(unlimited, delivery(2, 2)), wire.NotIsolated},
		"redelivered, later": {isolation(l, delivery(9, 7)), wire.Alone},
	} {
		if got.have != got.want {
			t.Errorf("%s: got %v, want %v", name, got.have, got.want)
		}
	}
}

// Crash marks of runs that ended are counted, and removed when a handler returns.
func TestCrashMarks(t *testing.T) {
	t.Parallel()
	for _, keyed := range []bool{false, true} {
		t.Run(fmt.Sprintf("keyed %t", keyed), func(t *testing.T) {
			t.Parallel()
			c := newConfig(t)
			c.Keyed = keyed
			for crashes := range 2 {
				l := open(t, c)
				d := delivery(1, 2)
				if got := isolation(l, d); got != wire.Alone {
					t.Fatalf("crash %d: it runs as %v", crashes, got)
				}
				for range 2 { // the second time the answer to the first was lost
					if fatal, err := l.MarkStarted(d); fatal != nil || err != nil || d.Stored.Crashes != crashes {
						t.Fatalf("crash %d: %v, %v, %d marks", crashes, fatal, err, d.Stored.Crashes)
					}
				}
			}
			l := open(t, c)
			d := delivery(1, 1)
			if got := isolation(l, d); got != wire.Alone {
				t.Fatalf("it runs as %v", got)
			}
			fatal, err := l.MarkStarted(d)
			if loop, ok := errors.AsType[*CrashLoopError](fatal); !ok || loop.Crashes != 2 || err != nil {
				t.Errorf("got %v, %v", fatal, err)
			}
			other := delivery(2, 2)
			l.Restore(other)
			if fatal, err := l.MarkStarted(other); fatal != nil || err != nil {
				t.Errorf("got %v, %v", fatal, err)
			}
			l.MarkEnded(other)
			for end := time.Now().Add(10 * time.Second); len(subjects(t, c.Store.Retries)) > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("left: %v", subjects(t, c.Store.Retries))
				}
			}
		})
	}
}

// subjects returns the subjects of a stream.
func subjects(t *testing.T, st jetstream.Stream) []string {
	t.Helper()
	info, err := st.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	must(t, err)
	var all []string
	for subject := range info.State.Subjects {
		all = append(all, subject)
	}
	slices.Sort(all)
	return all
}

// What was returned is no suspect and keeps its attempts; what was a suspect stays one.
func TestHandback(t *testing.T) {
	t.Parallel()
	c := newConfig(t)
	l := open(t, c)
	normal, failed, suspect, dead, blocked := delivery(1, 1), delivery(2, 1), delivery(3, 2), delivery(4, 1), delivery(5, 1)
	for _, d := range []wire.Delivery{normal, failed, suspect, dead, blocked} {
		isolation(l, d)
	}
	failed.Stored.Attempt = 4
	dead.Stored.Dead, dead.Stored.Attempt = errors.New(strings.Repeat("x", 5000)), 3
	blocked.Stored.Dead = &BlockedKeyError{4}
	untouched := delivery(6, 1) // it waited in a queue
	l.RecordHandback(t.Context(), []wire.Delivery{normal, failed, suspect, dead, blocked, untouched})

	next := open(t, c)
	for _, want := range []struct {
		sequence  uint64
		isolation wire.Isolation
		attempt   int
		dead      bool
	}{
		{1, wire.NotIsolated, 1, false},
		{2, wire.NotIsolated, 4, false},
		{3, wire.Alone, 1, false},
		{4, wire.NotIsolated, 3, true},
		{5, wire.NotIsolated, 1, false},
		{6, wire.NotIsolated, 1, false},
		{7, wire.Alone, 1, false}, // not returned
	} {
		d := delivery(want.sequence, 2)
		if got := isolation(next, d); got != want.isolation || d.Stored.Attempt != want.attempt || (d.Stored.Dead != nil) != want.dead {
			t.Errorf("message %d: %v, %+v", want.sequence, got, d.Stored)
		}
		if want.dead && len(d.Stored.Dead.Error()) != sidestream.MaxError {
			t.Errorf("message %d: the text has %d bytes", want.sequence, len(d.Stored.Dead.Error()))
		}
	}
	// A process may have died of it since.
	d := delivery(1, 3)
	if got := isolation(open(t, c), d); got != wire.Alone {
		t.Errorf("delivered once more it runs as %v", got)
	}
}

// Another process returns a message while this one runs.
func TestHandbackOfAnotherProcess(t *testing.T) {
	t.Parallel()
	c := newConfig(t)
	here, there := open(t, c), open(t, c)
	d := delivery(1, 1)
	isolation(there, d)
	d.Stored.Attempt = 3
	there.RecordHandback(t.Context(), []wire.Delivery{d})
	again := delivery(1, 2)
	if got := isolation(here, again); got != wire.NotIsolated || again.Stored.Attempt != 3 {
		t.Errorf("it runs as %v, %+v", got, again.Stored)
	}
}

// Attempts of messages that have not come again are stored again, since old handback
// messages are removed.
func TestHandbackCarriesAlong(t *testing.T) {
	t.Parallel()
	c := newConfig(t)
	l := open(t, c)
	d := delivery(1, 1)
	isolation(l, d)
	d.Stored.Attempt = 5
	l.RecordHandback(t.Context(), []wire.Delivery{d})
	for i := range uint64(2 * minKept) {
		l := open(t, c)
		l.RecordHandback(t.Context(), []wire.Delivery{delivery(i+2, 1)})
	}
	info, err := c.Store.Retries.Info(t.Context())
	must(t, err)
	if n := info.State.Msgs; n != minKept {
		t.Errorf("%d messages are kept", n)
	}
	again := delivery(1, 2)
	if isolation(open(t, c), again); again.Stored.Attempt != 5 {
		t.Errorf("got %+v", again.Stored)
	}
}

func TestEncodeRecords(t *testing.T) {
	t.Parallel()
	var all []handback
	for i := range uint64(100) {
		all = append(all, handback{Sequence: i, Deliveries: 1})
	}
	bodies := encodeRecords(all, 300)
	l := &Log{records: make(map[messageID]handback)}
	for _, body := range bodies {
		if len(body) > 300 {
			t.Errorf("a message has %d bytes", len(body))
		}
		must(t, l.addRecords(&jetstream.RawStreamMsg{Data: body, Sequence: 1}))
	}
	if len(l.records) != 100 || len(bodies) < 10 {
		t.Errorf("%d records in %d messages", len(l.records), len(bodies))
	}
	if err := l.addRecords(&jetstream.RawStreamMsg{Data: []byte("{}"), Sequence: 9}); err == nil {
		t.Error("what is no list was read")
	}
	if encodeRecords(nil, 300) != nil || l.lastRead != 9 {
		t.Error("no records are a message, or what is none was not passed")
	}
}

// If the server does not answer a message is a suspect and does not start.
func TestWithoutServer(t *testing.T) {
	t.Parallel()
	c := newConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	c.Handlers, c.Keyed, c.BlockKeys = ctx, true, true
	l := open(t, c)
	d := delivery(1, 2)
	d.Stored.Key = "k"
	l.RecordDeadLetter(&d)
	cancel()
	if got := isolation(l, d); got != wire.Alone {
		t.Errorf("it runs as %v", got)
	}
	if fatal, err := l.MarkStarted(d); fatal != nil || err == nil {
		t.Errorf("got %v, %v", fatal, err)
	}
	if wait, barred := l.MayRun(d); !wait || barred != nil {
		t.Errorf("got %t, %v", wait, barred)
	}
}
