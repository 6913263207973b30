package settle_test

import (
	"errors"
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
)

var errFailed = errors.New("failed")

func TestDecide(t *testing.T) {
	t.Parallel()
	policy := settle.Policy{MinBackoff: 100 * time.Millisecond, MaxBackoff: time.Minute}
	for _, c := range []struct {
		name     string
		attempt  int
		outcome  settle.Outcome
		action   settle.Action
		min, max time.Duration // of the wait
	}{
		{name: "done", attempt: 1, action: settle.Ack},
		{name: "done at the tenth attempt", attempt: 10, action: settle.Ack},
		{name: "first failure", attempt: 1, outcome: settle.Outcome{Err: errFailed},
			action: settle.Retry, min: 75 * time.Millisecond, max: 100 * time.Millisecond},
		{name: "second failure", attempt: 2, outcome: settle.Outcome{Err: errFailed},
			action: settle.Retry, min: 150 * time.Millisecond, max: 200 * time.Millisecond},
		{name: "tenth failure", attempt: 10, outcome: settle.Outcome{Err: errFailed},
			action: settle.Retry, min: 38400 * time.Millisecond, max: 51200 * time.Millisecond},
		{name: "eleventh failure is at the limit", attempt: 11, outcome: settle.Outcome{Err: errFailed},
			action: settle.Retry, min: 45 * time.Second, max: time.Minute},
		{name: "millionth failure", attempt: 1_000_000, outcome: settle.Outcome{Err: errFailed},
			action: settle.Retry, min: 45 * time.Second, max: time.Minute},
		{name: "the handler says when", attempt: 7, outcome: settle.Outcome{Err: errFailed, Asked: true, After: 3 * time.Hour},
			action: settle.Retry, min: 3 * time.Hour, max: 3 * time.Hour},
		{name: "nobody called it", attempt: 7, outcome: settle.Outcome{Returned: true}, action: settle.Return},
		{name: "cut off", attempt: 7, outcome: settle.Outcome{Err: errFailed, Returned: true}, action: settle.Return},
		{name: "postponed", attempt: 7, outcome: settle.Outcome{Err: errFailed, Postponed: true, After: time.Hour},
			action: settle.Postpone, min: time.Hour, max: time.Hour},
		{name: "postponed until now", attempt: 7, outcome: settle.Outcome{Err: errFailed, Postponed: true}, action: settle.Postpone},
		{name: "the handler says now", attempt: 7, outcome: settle.Outcome{Err: errFailed, Asked: true},
			action: settle.Retry},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for range 200 { // a part of it is random
				action, after := settle.Decide(policy, c.attempt, c.outcome)
				if action != c.action || after < c.min || after > c.max {
					t.Fatalf("got %v after %v, want %v after %v to %v", action, after, c.action, c.min, c.max)
				}
			}
		})
	}
}

func TestDecideWithALimit(t *testing.T) {
	t.Parallel()
	policy := settle.Policy{MaxAttempts: 3, MinBackoff: time.Second, MaxBackoff: time.Minute}
	asked := settle.Outcome{Err: errFailed, Asked: true, After: time.Hour}
	permanent := settle.Outcome{Err: errFailed, Permanent: true}
	for _, c := range []struct {
		name    string
		policy  settle.Policy
		attempt int
		outcome settle.Outcome
		want    settle.Action
	}{
		{"before the last attempt", policy, 2, settle.Outcome{Err: errFailed}, settle.Retry},
		{"the last attempt", policy, 3, settle.Outcome{Err: errFailed}, settle.DeadLetter},
		{"beyond it", policy, 4, settle.Outcome{Err: errFailed}, settle.DeadLetter},
		{"the last attempt succeeds", policy, 3, settle.Outcome{}, settle.Ack},
		{"the last attempt asks for another", policy, 3, asked, settle.DeadLetter},
		{"an earlier one does", policy, 2, asked, settle.Retry},
		{"the last attempt is postponed", policy, 3, settle.Outcome{Err: errFailed, Postponed: true}, settle.Postpone},
		{"so is what would be permanent", policy, 3, settle.Outcome{Err: errFailed, Postponed: true, Permanent: true}, settle.Postpone},
		{"the last attempt is cut off", policy, 3, settle.Outcome{Err: errFailed, Returned: true}, settle.Return},
		{"permanent at once", policy, 1, permanent, settle.DeadLetter},
		{"permanent without a limit", settle.Policy{MinBackoff: 1, MaxBackoff: 1}, 1, permanent, settle.DeadLetter},
	} {
		if got, _ := settle.Decide(c.policy, c.attempt, c.outcome); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
