package bus_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/health"
)

// roomFor is how many messages the durable of these tests may have out: so few that the
// messages behind a failing one are soon stored as followers.
const roomFor = 64

// declareSmall creates the durable c of stream S with little room.
func declareSmall(t *testing.T, b *bus.Bus, ackWait time.Duration) {
	t.Helper()
	_, err := b.JetStream().CreateOrUpdateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "c", FilterSubject: "s.*",
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1, MaxAckPending: roomFor})
	must(t, err)
}

// waitingCopies is how many followers of the durable c wait in S-retry, and how many are on
// their way back.
func waitingCopies(t *testing.T, b *bus.Bus) (waiting, returning int) {
	t.Helper()
	st, err := b.JetStream().Stream(t.Context(), "S-retry")
	must(t, err)
	info, err := st.Info(t.Context(), jetstream.WithSubjectFilter("$OMNIBUS.*.S.c.>"))
	must(t, err)
	for subject := range info.State.Subjects {
		switch {
		case strings.HasPrefix(subject, "$OMNIBUS.later."):
			waiting++
		case strings.HasPrefix(subject, "$OMNIBUS.retry."):
			returning++
		}
	}
	return waiting, returning
}

// storeFollowersUntilKilled is the child: messages of two of four keys fail now and then, for so
// long that those behind them are stored in S-retry, and return.
func storeFollowersUntilKilled(t *testing.T, dir string) {
	b := openOn(t, dir, bus.WithSync(bus.SyncEvery(time.Second)))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	declareSmall(t, b, time.Second)
	if _, err := b.JetStream().Stream(t.Context(), "S-retry"); err == nil {
		waiting, returning := waitingCopies(t, b)
		say("found %d %d", waiting, returning)
	}
	began := make(map[uint64]time.Time) // of the first attempt of a message; guarded by turn
	turn := make(chan struct{}, 1)
	room := make(chan struct{}, 300)
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		turn <- struct{}{}
		defer func() { <-turn }()
		if began[m.Sequence].IsZero() {
			began[m.Sequence] = time.Now()
		}
		if m.Data%5 == 0 && m.Subject < "s.k2" && time.Since(began[m.Sequence]) < 100*time.Millisecond {
			return errNo
		}
		say("done %s %d", m.Subject, m.Sequence)
		select {
		case <-room:
		default: // of another life
		}
		return nil
	}, bus.KeyBySubject(), bus.Concurrency(4), bus.AckWait(time.Second), always)
	say("begun")
	for n := 0; ; n++ {
		room <- struct{}{}
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.k%d", n%4)), n/4)
		must(t, err)
	}
}

// Processes are killed again and again while followers are stored in S-retry, and while they
// return. No message is lost, none becomes a dead letter, and each key keeps its order.
func TestKilledWhileFollowersAreStored(t *testing.T) {
	t.Parallel()
	if dir := victimDir(t); dir != "" {
		storeFollowersUntilKilled(t, dir)
	}
	dir := t.TempDir()
	var got keyLog
	got.keys = make(map[string][]uint64)
	waiting, returning, lives := 0, 0, underRace(4, 8)
	for life := range lives {
		enough, count := 20+life*underRace(20, 25), 0
		startVictim(t, dir).kill(t, func(line string) bool {
			var key string
			var seq uint64
			if scanned(line, "done %s %d", &key, &seq) {
				got.end(key, seq, true)
				count++
			}
			var w, r int
			if scanned(line, "found %d %d", &w, &r) {
				waiting, returning = waiting+w, returning+r
			}
			return count < enough
		})
	}
	b := openOn(t, dir)
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	consume(t, st, "c", "s.*", got.failing(t, 0, 0), bus.KeyBySubject(), bus.Concurrency(4), bus.AckWait(time.Second))
	awaitAll(t, b, "S", "c")
	stored := streamInfo(t, b, "S").State.LastSeq
	if dead := deadLetters(t, st, bus.DeadFilter{}); len(dead) != 0 || uint64(got.distinct()) != stored {
		t.Errorf("of %d messages %d were handled, %d are dead letters", stored, got.distinct(), len(dead))
	}
	must(t, b.Close())
	got.mustBeInOrder(t)
	if waiting == 0 || returning == 0 && lives == 8 { // some few short lives may end before any returns
		t.Errorf("the killed processes left %d followers that waited and %d that returned, want some of both", waiting, returning)
	}
	t.Logf("%d messages, %d times again; the killed processes left %d followers that waited and %d that returned", stored, len(got.order)-got.distinct(), waiting, returning)
}

// holdFollowersUntilKilled is the child: it stores followers, has them return, and never
// finishes one of them.
func holdFollowersUntilKilled(t *testing.T, dir string) {
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	declareSmall(t, b, time.Minute)
	storeKeys(t, st, 2, 400)
	stored := make(chan struct{})
	consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
		switch {
		case m.Sequence == 1 && !isClosed(stored):
			return errNo
		case m.Sequence == 151:
			spin(time.Second) // so that the server has written down what it sent, see ADR 16
			say("held")
			select {}
		}
		return nil
	}, bus.KeyBySubject(), bus.Concurrency(4), bus.AckWait(time.Minute), always)
	eventually(t, "followers are stored", func() bool {
		waiting, _ := waitingCopies(t, b)
		return waiting > 150
	})
	close(stored)
	select {}
}

// isClosed reports whether c is closed.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// The followers that a killed process had taken out of S-retry come again at once, too, and not
// after AckWait.
func TestRestartAfterKillWithFollowers(t *testing.T) {
	t.Parallel()
	if dir := victimDir(t); dir != "" {
		holdFollowersUntilKilled(t, dir)
	}
	dir := t.TempDir()
	startVictim(t, dir).kill(t, func(string) bool { return false })
	b := openOn(t, dir)
	held := consumerInfo(t, b, "S-retry", "c").NumAckPending // on a machine with much other work the server may not have written it down
	waiting, returning := waitingCopies(t, b)
	must(t, b.Close())
	if waiting == 0 || returning == 0 {
		t.Fatalf("%d followers wait, %d return, want some of both", waiting, returning)
	}
	restartAndHandleAll(t, dir, []bus.ConsumeOption{bus.KeyBySubject()}, held > 0)
}

// Followers come back, too, where the user may not delete single messages of S-retry. Where it may not
// purge subjects either the durable cannot begin: its health says so, with the subject, and S-retry
// does not grow.
func TestFollowersOfARestrictedUser(t *testing.T) {
	t.Parallel()
	const noDelete, noPurge = "$JS.API.STREAM.MSG.DELETE.>", "$JS.API.STREAM.PURGE.>"
	start := func(t *testing.T, handle bus.Handler[int], denied ...string) (*bus.Bus, *bus.Stream) {
		b, err := bus.Connect(t.Context(), annDenied(t, denied...), bus.WithUser("ann", "x"), bus.WithLogger(silent()))
		must(t, err)
		t.Cleanup(func() { must(t, b.Close()) })
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		declareSmall(t, b, 30*time.Second)
		storeKeys(t, st, 2, 400)
		consume(t, st, "c", "s.*", handle, bus.KeyBySubject(), bus.Concurrency(4), bus.Retry(bus.RetryPolicy{MaxAttempts: 1000, MaxBackoff: 100 * time.Millisecond}))
		return b, st
	}
	t.Run("without deletes", func(t *testing.T) {
		t.Parallel()
		var got ledger
		b, st := start(t, func(ctx context.Context, m *bus.Msg[int]) error {
			if m.Subject == "s.k0" && got.distinct() < 200 {
				return errNo
			}
			return got.handle(ctx, m)
		}, noDelete)
		awaitAll(t, b, "S", "c")
		ofKey := slices.DeleteFunc(got.sequences(), func(sequence uint64) bool { return sequence%2 == 0 })
		if got.distinct() != 400 || len(ofKey) != 200 || !slices.IsSorted(ofKey) {
			t.Errorf("%d messages were handled, %d of the key, in order: %t", got.distinct(), len(ofKey), slices.IsSorted(ofKey))
		}
		if dead := deadOf(t, st, bus.DeadFilter{}); len(dead) > 0 {
			t.Errorf("dead letters: %v", dead)
		}
		eventually(t, "S-retry is empty", func() bool {
			waiting, returning := waitingCopies(t, b)
			return waiting+returning == 0
		})
	})
	t.Run("without purges", func(t *testing.T) {
		t.Parallel()
		b, _ := start(t, ignore[int], noDelete, noPurge)
		eventually(t, "a problem names the subject", func() bool {
			r := b.Health(t.Context())
			return r.Status == health.Degraded && strings.Contains(r.Problems[0].Reason, "$JS.API.STREAM.PURGE.S-retry")
		})
		if n := streamInfo(t, b, "S-retry").State.Msgs; n > 0 {
			t.Errorf("S-retry has %d messages", n)
		}
	})
}
