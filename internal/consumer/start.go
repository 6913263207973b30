package consumer

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Start is the message of its stream with which a durable starts. The zero value sets none.
type Start struct {
	Kind     StartKind
	Sequence uint64    // of StartSequence
	Time     time.Time // of StartTime: UTC, without a monotonic part
}

// StartKind is a way to name the first message.
type StartKind int

// The kinds.
const (
	StartUnset StartKind = iota
	StartFirst
	StartLast
	StartNew
	StartSequence
	StartTime
)

var deliverPolicies = map[StartKind]jetstream.DeliverPolicy{
	StartUnset: jetstream.DeliverAllPolicy, StartFirst: jetstream.DeliverAllPolicy, StartLast: jetstream.DeliverLastPolicy,
	StartNew:      jetstream.DeliverNewPolicy,
	StartSequence: jetstream.DeliverByStartSequencePolicy, StartTime: jetstream.DeliverByStartTimePolicy,
}

// String returns s in words.
func (s Start) String() string {
	var c jetstream.ConsumerConfig
	s.apply(&c)
	return startOf(c)
}

// apply writes s into the configuration of a new consumer.
func (s Start) apply(c *jetstream.ConsumerConfig) {
	c.DeliverPolicy, c.OptStartSeq = deliverPolicies[s.Kind], s.Sequence
	if s.Kind == StartTime {
		c.OptStartTime = &s.Time
	}
}

// copyStart makes want start where have does.
func copyStart(want *jetstream.ConsumerConfig, have jetstream.ConsumerConfig) {
	want.DeliverPolicy, want.OptStartSeq, want.OptStartTime = have.DeliverPolicy, have.OptStartSeq, have.OptStartTime
}

// startOf returns where c starts, in words.
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
