package switchover

import (
	"testing"

	"github.com/nats-io/nats.go"
)

// An answer counts also if the question was repeated before it came.
func TestLateAnswerCounts(t *testing.T) {
	t.Parallel()
	s := newRun(t)
	var first *nats.Msg
	asked := 0
	sub, err := s.Target.Subscribe("late", func(m *nats.Msg) {
		if asked++; asked == 1 {
			first = m
		}
		if asked == 3 {
			_ = first.Respond([]byte("answer"))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	m, err := awaitAnswer(t.Context(), s.Target, "late", nil)
	if err != nil || string(m.Data) != "answer" {
		t.Errorf("got %v, %v", m, err)
	}
}
