package sidestream

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/jserr"
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

// newStream creates the stream S, and returns it as its side streams see it.
func newStream(t *testing.T, c *core.Core) Stream {
	t.Helper()
	st, err := c.JetStream.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	must(t, err)
	return Stream{Name: "S", Incarnation: IncarnationOf(st.CachedInfo())}
}

// open opens the store of durable d of a new stream S.
func open(t *testing.T) (*Store, *core.Core) {
	t.Helper()
	c := testcore.New(t, testserver.New(t, testserver.WithJetStream))
	s, err := Open(t.Context(), c, newStream(t, c), "d", time.Minute)
	must(t, err)
	return s, c
}

// failedDelivery returns a message of S with a failed handler call.
func failedDelivery(sequence uint64) *wire.Delivery {
	return &wire.Delivery{In: wire.In{Subject: "s.a", Data: []byte("x")}, Stored: &wire.Stored{Stream: "S", Sequence: sequence,
		Time: time.Unix(1_800_000_000, int64(sequence)), Attempt: 2, Dead: errors.New("no luck")}}
}

// mustHave fails the test unless a stream has exactly one message on each of the subjects.
func mustHave(t *testing.T, c *core.Core, stream string, subjects ...string) {
	t.Helper()
	st, err := c.JetStream.Stream(t.Context(), stream)
	must(t, err)
	info, err := st.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	must(t, err)
	var have []string
	for subject := range info.State.Subjects {
		have = append(have, subject)
	}
	slices.Sort(have)
	slices.Sort(subjects)
	if !slices.Equal(have, subjects) || info.State.Msgs != uint64(len(subjects)) {
		t.Errorf("%s has %v, want %v", stream, have, subjects)
	}
}

// Open again, with another AckWait, keeps what is there.
func TestOpenTwice(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	must(t, s.PutDeadLetter(t.Context(), failedDelivery(1), "error"))
	again, err := Open(t.Context(), c, s.stream, "d", 2*time.Minute)
	must(t, err)
	if again.Address(1) != s.Address(1) || !again.CanDefer || again.Source().MaxHeld != defaultMaxHeld {
		t.Errorf("got %+v", again)
	}
	con, err := c.JetStream.Consumer(t.Context(), "S-retry", "d")
	must(t, err)
	if got := con.CachedInfo().Config.AckWait; got != 2*time.Minute {
		t.Errorf("AckWait is %v", got)
	}
	mustHave(t, c, "S-dead", s.Address(1).Subject(Dead))
}

func TestOpenWithoutItsStream(t *testing.T) {
	t.Parallel()
	c := testcore.New(t, testserver.New(t, testserver.WithJetStream))
	_, err := Open(t.Context(), c, Stream{Name: "S"}, "d", time.Minute)
	if failed, ok := errors.AsType[*jserr.Error](err); !ok || failed.Stream != "S" || !jserr.IsAbsent(err) {
		t.Errorf("got %v", err)
	}
}

// A stream of the program with the name of a side stream stays as it is.
func TestForeignStream(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"S-dead", "S-retry", "S-keys"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := testcore.New(t, testserver.New(t, testserver.WithJetStream))
			own := newStream(t, c)
			_, err := c.JetStream.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{"mine"}})
			must(t, err)
			_, err = Open(t.Context(), c, own, "d", time.Minute)
			if name == "S-keys" {
				must(t, err)
				err = DeclareKeys(t.Context(), c, own)
			}
			if foreign, ok := errors.AsType[*ForeignStreamError](err); !ok || foreign.Side != name || foreign.Stream != "S" || !strings.Contains(err.Error(), "[mine]") {
				t.Errorf("got %v", err)
			}
			_, err = DeleteAll(t.Context(), c, "S")
			must(t, err)
			st, err := c.JetStream.Stream(t.Context(), name)
			must(t, err)
			if got := st.CachedInfo().Config.Subjects; !slices.Equal(got, []string{"mine"}) {
				t.Errorf("it stores %v", got)
			}
		})
	}
}

// A stream of an older version gets the subjects that it lacks.
func TestOpenAddsSubjects(t *testing.T) {
	t.Parallel()
	c := testcore.New(t, testserver.New(t, testserver.WithJetStream))
	own := newStream(t, c)
	_, err := c.JetStream.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S-retry", Retention: jetstream.WorkQueuePolicy,
		AllowMsgSchedules: true, Subjects: []string{Pattern(Retry, "S"), Pattern(Later, "S")}})
	must(t, err)
	s, err := Open(t.Context(), c, own, "d", time.Minute)
	must(t, err)
	if got := s.Retries.CachedInfo().Config.Subjects; !slices.Contains(got, Pattern(Note, "S")) {
		t.Errorf("it stores %v", got)
	}
}

// What is stored twice is stored once.
func TestPutTwice(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	for range 2 {
		must(t, s.PutDeadLetter(t.Context(), failedDelivery(1), "error"))
		must(t, s.DeferRetry(t.Context(), failedDelivery(2), time.Now().Add(time.Hour)))
	}
	mustHave(t, c, "S-dead", s.Address(1).Subject(Dead))
	mustHave(t, c, "S-retry", s.Address(2).Subject(Later))
	m, err := s.DeadLetters.GetLastMsgForSubject(t.Context(), s.Address(1).Subject(Dead))
	must(t, err)
	got, err := ParseCopy(wire.Header(m.Header), m.Data)
	must(t, err)
	if got.Cause != "error" || got.Error != "no luck" || got.Attempts != 2 || string(got.Data) != "x" || got.Subject != "s.a" {
		t.Errorf("got %+v", got)
	}
}

// Somebody deletes all side streams. The next message recreates them.
func TestPutRecreates(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	found, err := DeleteAll(t.Context(), c, "S")
	must(t, err)
	if !found {
		t.Error("nothing was found")
	}
	must(t, s.PutDeadLetter(t.Context(), failedDelivery(1), "error"))
	mustHave(t, c, "S-dead", s.Address(1).Subject(Dead))
	must(t, s.DeferRetry(t.Context(), failedDelivery(2), time.Now().Add(time.Hour)))
	must(t, c.JetStream.DeleteStream(t.Context(), "S"))
	_, err = DeleteAll(t.Context(), c, "S")
	must(t, err)
	if err := s.PutDeadLetter(t.Context(), failedDelivery(3), "error"); !jserr.IsAbsent(err) {
		t.Errorf("got %v", err)
	}
	if found, err := DeleteAll(t.Context(), c, "S"); found || err != nil {
		t.Errorf("found: %t, %v", found, err)
	}
}

// S is created again and repeats its sequences. The message of the new stream finds the
// address taken by one of the old stream, and gets another. A third message with that
// sequence, which is of no stream that is known, is kept too.
func TestResolveCollision(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	old := failedDelivery(1)
	must(t, s.PutDeadLetter(t.Context(), old, "error"))
	first := s.Address(1).Subject(Dead)
	must(t, c.JetStream.DeleteStream(t.Context(), "S"))
	newStream(t, c)

	fresh := failedDelivery(1)
	fresh.Stored.Time = old.Stored.Time.Add(time.Hour)
	must(t, s.PutDeadLetter(t.Context(), fresh, "error"))
	second := s.Address(1).Subject(Dead)
	if first == second {
		t.Fatal("the incarnation is the old one")
	}
	third := failedDelivery(1)
	third.Stored.Time = old.Stored.Time.Add(2 * time.Hour)
	must(t, s.PutDeadLetter(t.Context(), third, "error"))
	mustHave(t, c, "S-dead", first, second, s.AddressOf(third).Subject(Dead))
	must(t, s.PutDeadLetter(t.Context(), third, "error"))
	mustHave(t, c, "S-dead", first, second, s.AddressOf(third).Subject(Dead))
}

// A dead letter that was redriven and fails again replaces the old one, while that is there
// and after it was removed.
func TestDeadLetterAgain(t *testing.T) {
	t.Parallel()
	for _, removed := range []bool{false, true} {
		s, c := open(t)
		must(t, s.PutDeadLetter(t.Context(), failedDelivery(1), "error"))
		again := failedDelivery(1)
		again.Stored.DeadLetter, again.Stored.Dead = 1, errors.New("again")
		if removed {
			must(t, s.DeadLetters.DeleteMsg(t.Context(), 1))
		}
		must(t, s.PutDeadLetter(t.Context(), again, "error"))
		m, err := s.DeadLetters.GetLastMsgForSubject(t.Context(), s.Address(1).Subject(Dead))
		must(t, err)
		if got, err := ParseCopy(wire.Header(m.Header), m.Data); err != nil || got.Error != "again" || m.Sequence != 2 {
			t.Errorf("removed: %t: got %+v, %v", removed, got, err)
		}
		mustHave(t, c, "S-dead", s.Address(1).Subject(Dead))
	}
}

// A deferred message comes back as what it was.
func TestSourceRestores(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	want := failedDelivery(7)
	want.Header = wire.Header{"Nats-Msg-Id": {"1"}}
	must(t, s.DeferRetry(t.Context(), want, time.Now().Add(-time.Second)))
	con, err := c.JetStream.Consumer(t.Context(), "S-retry", "d")
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	m, err := con.Next(jetstream.FetchContext(ctx))
	must(t, err)
	got := wire.Delivery{In: wire.In{Subject: m.Subject(), Header: wire.Header(m.Headers()), Data: m.Data()}, Stored: &wire.Stored{}}
	must(t, s.Source().Restore(&got))
	if st := got.Stored; got.Subject != "s.a" || string(got.Data) != "x" || got.Header["Nats-Msg-Id"][0] != "1" || st.Sequence != 7 ||
		st.Attempt != 2 || !st.Time.Equal(want.Stored.Time) || st.Incarnation != s.Address(7).Incarnation || st.Stream != "S" {
		t.Errorf("got %+v, %+v", got, got.Stored)
	}
	if err := s.Source().Restore(&wire.Delivery{Stored: &wire.Stored{}}); err == nil {
		t.Error("a message that is no copy was restored")
	}
}
