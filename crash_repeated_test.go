package bus_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
)

const (
	workersOfVictim = 8
	keysOfVictim    = 20
)

// workUntilKilled is the child: it stores messages up to so many, and handles them.
// What it says of a message comes before its acknowledgement.
func workUntilKilled(t *testing.T, dir string, messages int, opts []bus.ConsumeOption) {
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	fail := failAtRandom(0.05)
	room := make(chan struct{}, 500)
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		time.Sleep(time.Duration(rand.IntN(6000)) * time.Microsecond)
		if fail() {
			return errNo
		}
		say("done %s %d %d", m.Subject, m.Sequence, time.Now().UnixNano())
		select {
		case <-room:
		default: // of another life
		}
		return nil
	}, append(opts, bus.Concurrency(workersOfVictim), bus.AckWait(time.Second),
		bus.Retry(bus.RetryPolicy{MaxAttempts: 20, MinBackoff: 5 * time.Millisecond, MaxBackoff: 100 * time.Millisecond}))...)
	for n := int(streamInfo(t, b, "S").State.LastSeq); n < messages; n++ {
		room <- struct{}{}
		ack, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.k%d", rand.IntN(keysOfVictim))), n, bus.MsgID(fmt.Sprint(n)))
		must(t, err)
		say("stored 0 %d %d", n, ack.Sequence)
	}
	awaitAll(t, b, "S", "c")
	say("over")
	select {} // until it is killed
}

// lives is what children say that are killed one after the other.
type lives struct {
	keyLog

	deaths []time.Time
	stored uint64             // the last sequence that a publisher was told
	latest map[uint64]success // by sequence
	again  []int              // successes that came once more, by the life they were of
	near   int                // successes in the last 100 ms of a life
	oldest time.Duration      // how long before its life's end one was that came once more
	over   bool
}

// success is a handler call, and the life in which it was.
type success struct {
	life int
	at   time.Time
}

// hear takes a line of the present life.
func (l *lives) hear(line string) {
	if s, ok := parseStored(line); ok {
		l.stored = max(l.stored, s.seq)
	}
	l.over = l.over || line == "over"
	var key string
	var seq uint64
	var at int64
	if !scanned(line, "done %s %d %d", &key, &seq, &at) {
		return
	}
	if before, ok := l.latest[seq]; ok {
		l.again[before.life]++
		if before.life < len(l.deaths) {
			l.oldest = max(l.oldest, l.deaths[before.life].Sub(before.at))
		}
	}
	l.latest[seq] = success{len(l.again) - 1, time.Unix(0, at)}
	l.end(key, seq, true)
}

// live has a child work until so many more messages were handled, or all, and kills
// it at some moment after that.
func (l *lives) live(t *testing.T, dir string, enough int) {
	t.Helper()
	l.again = append(l.again, 0)
	life, goal, dying := len(l.deaths), l.distinct()+enough, false
	startVictim(t, dir).kill(t, func(line string) bool {
		l.hear(line)
		if dying || l.distinct() < goal && !l.over {
			return true
		}
		dying = true
		spin(time.Duration(rand.IntN(3000)) * time.Microsecond)
		l.deaths = append(l.deaths, time.Now())
		return false
	})
	for _, s := range l.latest {
		if s.life == life && l.deaths[life].Sub(s.at) <= 100*time.Millisecond {
			l.near++
		}
	}
}

// mustHaveAll fails the test unless all messages are stored, and each was handled.
func (l *lives) mustHaveAll(t *testing.T, dir string, messages int) {
	t.Helper()
	b := openOn(t, dir)
	defer func() { must(t, b.Close()) }()
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	if s := streamInfo(t, b, "S").State; s.Msgs != uint64(messages) || s.LastSeq != s.Msgs || l.stored > s.LastSeq {
		t.Errorf("%d messages are stored, the last at %d; %d was acknowledged", s.Msgs, s.LastSeq, l.stored)
	}
	if dead := deadLetters(t, st, bus.DeadFilter{}); len(dead) != 0 {
		t.Errorf("%d messages are dead letters, the first is %+v", len(dead), dead[0])
	}
	if l.distinct() != messages {
		t.Errorf("%d messages of %d were handled", l.distinct(), messages)
	}
}

// mustRepeatLittle fails the test if a message came once more that was acknowledged
// long before the end of its life. The server writes down what was acknowledged
// within 100 ms; a busy machine may need longer.
func (l *lives) mustRepeatLittle(t *testing.T) {
	t.Helper()
	total := 0
	for _, n := range l.again {
		total += n
	}
	t.Logf("%d successes came once more, at most %d of a life, the oldest of %v before its end; %d were in the last 100 ms of a life",
		total, slices.Max(l.again), l.oldest.Round(time.Millisecond), l.near)
	if l.oldest > time.Second {
		t.Errorf("a message came once more that was handled %v before", l.oldest)
	}
}

// A process with a server and a consumer that is killed again and again loses
// nothing, keeps the order of each key, makes no dead letter of what it was at, and
// repeats only that and what it had just acknowledged. BUS_TEST_KILLS and
// BUS_TEST_MESSAGES say how much.
func TestKilledThirtyTimes(t *testing.T) {
	t.Parallel()
	kills, messages := numberFromEnv(t, "BUS_TEST_KILLS", underRace(3, 6)), numberFromEnv(t, "BUS_TEST_MESSAGES", underRace(1000, 3000))
	for name, opts := range map[string][]bus.ConsumeOption{"with keys": {bus.KeyByToken(2)}, "without keys": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if dir := victimDir(t); dir != "" {
				workUntilKilled(t, dir, messages, opts)
			}
			dir, began := t.TempDir(), time.Now()
			l := &lives{latest: make(map[uint64]success)}
			l.keys = make(map[string][]uint64)
			for left := kills; left > 0; left-- {
				l.live(t, dir, rand.IntN(2*(messages-l.distinct())/(left+1)+1))
			}
			if !l.over {
				l.live(t, dir, messages)
			}
			t.Logf("%d messages, %d kills before all were handled, %v", messages, kills, time.Since(began).Round(time.Second))
			l.mustHaveAll(t, dir, messages)
			l.mustRepeatLittle(t)
			if opts != nil {
				l.mustBeInOrder(t)
			}
		})
	}
}
