package bus_test

import (
	"context"
	"testing"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

// Whatever another program asks of a stream that a switch home has fenced is refused: also by its new
// subject, and what removes messages. Only a look at it and at its dead letters is not. So it is while
// the switch goes on, and afterwards.
func TestCallsToAFencedStream(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := elsewhere(t, target.ClientURL())
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		if m.Data == 1 {
			return bus.Permanent(errNo)
		}
		return nil
	})
	storeNumbers(t, st, 1, 10)
	eventually(t, "there is a dead letter", func() bool {
		n, err := st.DeadCount(t.Context(), bus.DeadFilter{})
		must(t, err)
		return n == 1
	})
	goHome(t, b, switchover.OnProgress(func(p switchover.Progress) {
		if p.Phase == switchover.Commit {
			mustBeRefused(t, target.ClientURL(), false)
		}
	}))
	mustBeRefused(t, target.ClientURL(), true)
	if n, err := st.Purge(t.Context(), bus.PurgeFilter{}); n != 10 || err != nil {
		t.Errorf("at home: Purge = %d, %v", n, err)
	}
	if n, err := st.Discard(t.Context(), bus.DeadFilter{}); n != 1 || err != nil {
		t.Errorf("at home: Discard = %d, %v", n, err)
	}
}

// mustBeRefused makes calls about the fenced stream S of a server.
func mustBeRefused(t *testing.T, url string, committed bool) {
	t.Helper()
	ctx := t.Context()
	other, err := bus.Connect(ctx, url, bus.WithLogger(silent()))
	must(t, err)
	defer func() { must(t, other.Close()) }()
	st := lookUp(t, other, "S")
	fence := streamInfo(t, other, "S").Config.Subjects[0]
	var letter *bus.DeadLetter
	for l, err := range st.DeadLetters(ctx, bus.DeadFilter{}) {
		must(t, err)
		letter = l
	}
	if len(st.Subjects()) > 0 || letter == nil {
		t.Errorf("the stream stores %q, and its dead letter is %v", st.Subjects(), letter)
	}
	replay := func(subject string) (err error) {
		for _, err = range bus.Replay(ctx, st, bus.Subject[int](subject)) {
			break
		}
		return err
	}
	for name, err := range map[string]error{
		"Stream":              second(other.Stream(ctx, bus.StreamConfig{Name: "S"})),
		"Plan":                second(st.Plan(ctx, bus.StreamConfig{})),
		"PublishTo":           second(bus.PublishTo(ctx, st, bus.Subject[int]("s.1"), 1)),
		"PublishTo the fence": second(bus.PublishTo(ctx, st, bus.Subject[int](fence), 1)),
		"PublishToAsync":      second(bus.PublishToAsync(ctx, st, bus.Subject[int]("s.1"), 1)),
		"Consume":             second(bus.Consume(ctx, st, "d", bus.Subject[int]("s.1"), ignore[int])),
		"Consume the fence":   second(bus.Consume(ctx, st, "d", bus.Subject[int](fence), ignore[int])),
		"Replay":              replay("s.1"),
		"Replay of the fence": replay(fence),
		"Purge":               second(st.Purge(ctx, bus.PurgeFilter{})),
		"Purge of the first":  second(st.Purge(ctx, bus.PurgeFilter{Before: 2})),
		"Discard":             second(st.Discard(ctx, bus.DeadFilter{})),
		"Redrive":             second(st.Redrive(ctx, bus.DeadFilter{})),
		"RedriveAs":           bus.RedriveAs(ctx, letter, 2),
	} {
		t.Run(name, func(t *testing.T) {
			if moved := asError[*switchover.StreamMovedError](t, err, `stream "S`); moved != nil && moved.Committed != committed {
				t.Errorf("Committed = %v", moved.Committed)
			}
		})
	}
}
