package settle

import "time"

// Policy says when to try again, and how often.
type Policy struct {
	MaxAttempts int           // handler calls; 0: no limit
	MinBackoff  time.Duration // before the second attempt; it doubles from there
	MaxBackoff  time.Duration
}

// Outcome is how one handler call ended.
type Outcome struct {
	Err       error         // nil: it is done
	Permanent bool          // another attempt would fail as well
	Asked     bool          // the handler said itself when to try again
	After     time.Duration // what it said
	Postponed bool          // the message was not tried, and comes again after After: that was no attempt
	Returned  bool          // there was no call, or it was cut off: somebody else may make it

	Decided *Decision // what becomes of the message, where that was decided before the outcome came; else nil
}

// Decision is what becomes of a message after a handler call.
type Decision struct {
	Action Action
	After  time.Duration
}

// Action is what to do with a message.
type Action int

// The actions.
const (
	Ack        Action = iota // it is done
	Retry                    // keep it and call the handler again after a while
	Postpone                 // likewise, for the same attempt
	DeadLetter               // it will not be handled
	Return                   // let it go as it came
)

// Decide returns what to do with a message whose attempt-th handler call, from
// 1, ended with o, and after which time.
func Decide(p Policy, attempt int, o Outcome) (Action, time.Duration) {
	switch {
	case o.Returned:
		return Return, 0
	case o.Err == nil:
		return Ack, 0
	case o.Postponed:
		return Postpone, o.After
	case o.Permanent, p.MaxAttempts > 0 && attempt >= p.MaxAttempts:
		return DeadLetter, 0
	case o.Asked:
		return Retry, o.After
	default:
		return Retry, p.backoff(attempt)
	}
}
