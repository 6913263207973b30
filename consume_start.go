package bus

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// StartOption says with which message of its stream a durable begins. It holds when
// the durable is made. On one that exists another start is a *ConsumerConflictError,
// and none leaves it where it is; Consumer.Rewind sends it back.
type StartOption struct{ start start }

func (s StartOption) onConsume(o *handleOptions) {
	if err := s.check("Consume"); err != nil {
		o.mistake(err)
	}
	if o.start != (start{}) && o.start != s.start {
		o.mistake(&OptionError{Option: "Consume start", Value: s.start.String(), Reason: "another option says " + o.start.String() + " already; leave one out"})
		return
	}
	o.start = s.start
}

func (s StartOption) check(call string) error {
	switch s.start.kind {
	case startUnsaid:
		return &OptionError{Option: call, Value: "StartOption{}", Reason: "make it with a function such as StartAtFirst"}
	case startSequence:
		if s.start.sequence == 0 {
			return &OptionError{Option: "StartAtSequence", Value: "0", Reason: "sequences begin with 1"}
		}
	case startTime:
		if s.start.time.IsZero() {
			return &OptionError{Option: "StartAtTime", Value: s.start.time.String(), Reason: "is the zero time; use StartAtFirst for all messages"}
		}
	}
	return nil
}

// start is where a durable begins.
type start struct {
	kind     startKind
	sequence uint64
	time     time.Time // UTC, without the monotonic part
}

type startKind int

const (
	startUnsaid startKind = iota
	startFirst
	startLast
	startNew
	startSequence
	startTime
)

// StartAtFirst begins with the first message that is stored, which is the default.
func StartAtFirst() StartOption { return StartOption{start{kind: startFirst}} }

// StartAtLast begins with the last message that is stored and matches.
func StartAtLast() StartOption { return StartOption{start{kind: startLast}} }

// StartAtNew begins with the first message that is stored after the durable was made.
func StartAtNew() StartOption { return StartOption{start{kind: startNew}} }

// StartAtSequence begins with the message that has this sequence in the stream, or the
// first one after it.
func StartAtSequence(sequence uint64) StartOption {
	return StartOption{start{kind: startSequence, sequence: sequence}}
}

// StartAtTime begins with the first message that was stored at t or later. A t that a
// program computes anew when it starts, as an hour ago, is another start each time, and
// a conflict from the second time on.
func StartAtTime(t time.Time) StartOption {
	return StartOption{start{kind: startTime, time: t.UTC().Round(0)}}
}

var deliverPolicies = map[startKind]jetstream.DeliverPolicy{
	startUnsaid: jetstream.DeliverAllPolicy, startFirst: jetstream.DeliverAllPolicy, startLast: jetstream.DeliverLastPolicy,
	startNew:      jetstream.DeliverNewPolicy,
	startSequence: jetstream.DeliverByStartSequencePolicy, startTime: jetstream.DeliverByStartTimePolicy,
}

func (s start) String() string {
	var c jetstream.ConsumerConfig
	s.apply(&c)
	return startOf(c)
}

// apply writes s into the configuration of a new consumer.
func (s start) apply(c *jetstream.ConsumerConfig) {
	c.DeliverPolicy, c.OptStartSeq = deliverPolicies[s.kind], s.sequence
	if s.kind == startTime {
		c.OptStartTime = &s.time
	}
}

// config is a configuration that begins at s.
func (s start) config() (c jetstream.ConsumerConfig) {
	s.apply(&c)
	return c
}

// leave makes want begin where have does.
func (start) leave(want *jetstream.ConsumerConfig, have jetstream.ConsumerConfig) {
	want.DeliverPolicy, want.OptStartSeq, want.OptStartTime = have.DeliverPolicy, have.OptStartSeq, have.OptStartTime
}

// startOf is where c begins, in words.
func startOf(c jetstream.ConsumerConfig) string {
	switch {
	case c.DeliverPolicy == jetstream.DeliverAllPolicy:
		return "first"
	case c.DeliverPolicy == jetstream.DeliverByStartSequencePolicy:
		return "sequence " + strconv.FormatUint(c.OptStartSeq, 10)
	case c.DeliverPolicy == jetstream.DeliverByStartTimePolicy && c.OptStartTime != nil:
		return c.OptStartTime.UTC().Format(time.RFC3339Nano)
	}
	return c.DeliverPolicy.String()
}
