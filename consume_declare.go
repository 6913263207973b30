package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/subject"
)

// everything is the filter of a consumer that gets all that its stream stores.
const everything = ">"

func (s *Stream) checkConsume(ctx context.Context, durable string, want consumption, o *consumeOptions) error {
	if !streamName.MatchString(durable) {
		return badDurable(durable)
	}
	for _, filter := range want.filters {
		if err := checkPattern(filter); err != nil {
			return err
		}
		if err := o.checkKey(filter, want.of); err != nil {
			return err
		}
		err := s.checkMayHave(ctx, filter)
		if err != nil {
			return err
		}
	}
	return nil
}

func badDurable(name string) error {
	return &OptionError{Option: "Consume durable", Value: fmt.Sprintf("%q", name), Reason: "use 1 to 200 letters, digits, - and _"}
}

// declareConsumer creates the consumer, or checks that the one there is fits.
func (s *Stream) declareConsumer(ctx context.Context, durable string, filters []string, o *consumeOptions) (*jetstream.ConsumerInfo, error) {
	want := jetstream.ConsumerConfig{Durable: durable, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: cmp.Or(o.ackWait, defaultAckWait), MaxDeliver: -1, MaxAckPending: max(leastAckPending, 4*o.atOnce()), Metadata: o.keyMetadata()}
	switch {
	case slices.Contains(filters, everything): // the server is quicker without
	case len(filters) == 1:
		want.FilterSubject = filters[0]
	default:
		want.FilterSubjects = filters
	}
	o.start.apply(&want)
	con, err := s.bus.core.JetStream.CreateConsumer(ctx, s.name, want)
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return s.adoptConsumer(ctx, want, o)
	}
	if err != nil {
		return nil, streamError(s.name, "consume", err)
	}
	return con.CachedInfo(), nil
}

// leastAckPending is how many messages of a durable may be unfinished, in all its
// members together.
const leastAckPending = 1000

// most is how many messages of a consumer may be here.
func most(c jetstream.ConsumerConfig) int {
	if c.MaxAckPending <= 0 {
		return leastAckPending
	}
	return c.MaxAckPending
}

// adoptConsumer uses the consumer that exists, with another AckWait if that is asked
// for.
func (s *Stream) adoptConsumer(ctx context.Context, want jetstream.ConsumerConfig, o *consumeOptions) (*jetstream.ConsumerInfo, error) {
	con, err := s.bus.core.JetStream.Consumer(ctx, s.name, want.Durable)
	if err != nil {
		return nil, streamError(s.name, "consume", err)
	}
	have := con.CachedInfo().Config
	if o.start == (start{}) { // where an existing one began is its own affair
		o.start.leave(&want, have)
	}
	if e := s.consumerConflict(have, want); e != nil {
		return nil, e
	}
	info, err := s.changeKey(ctx, con.CachedInfo(), want)
	if err != nil || o.ackWait == 0 || have.AckWait == want.AckWait {
		return info, err
	}
	have = info.Config
	have.AckWait = want.AckWait
	if con, err = s.bus.core.JetStream.UpdateConsumer(ctx, s.name, have); err != nil {
		return nil, streamError(s.name, "update the consumer", err)
	}
	return con.CachedInfo(), nil
}

// consumerConflict is what a consumer has with which Consume cannot do what it
// promises, nil for none.
func (s *Stream) consumerConflict(have, want jetstream.ConsumerConfig) error {
	e := &ConsumerConflictError{Stream: s.name, Durable: want.Durable}
	check := func(field string, have, want any) {
		if have != want {
			e.Fields = append(e.Fields, FieldChange{Field: field, Have: fmt.Sprint(have), Want: fmt.Sprint(want)})
		}
	}
	has, wants := filtersOf(have), filtersOf(want)
	e.Skipped, e.Unasked = beyond(wants, has), beyond(has, wants)
	if len(e.Skipped)+len(e.Unasked) > 0 {
		check("filter", strings.Join(has, " "), strings.Join(wants, " "))
	}
	check("ack policy", have.AckPolicy, want.AckPolicy)
	check(fieldStart, startOf(have), startOf(want))
	check("replay policy", have.ReplayPolicy, want.ReplayPolicy)
	check("deliver subject", have.DeliverSubject, "")
	check("max deliver", deliveries(have), deliveries(want))
	check("headers only", have.HeadersOnly, false)
	check("backoff", len(have.BackOff), 0)
	check("max request batch", have.MaxRequestBatch, 0)
	check("max request expires", have.MaxRequestExpires, time.Duration(0))
	check("max request bytes", have.MaxRequestMaxBytes, 0)
	check("priority policy", have.PriorityPolicy, want.PriorityPolicy)
	if len(e.Fields) == 0 {
		return nil
	}
	return e
}

// filtersOf is what a consumer sends.
func filtersOf(c jetstream.ConsumerConfig) []string {
	switch {
	case len(c.FilterSubjects) > 0:
		return c.FilterSubjects
	case c.FilterSubject != "":
		return []string{c.FilterSubject}
	}
	return []string{everything}
}

// beyond is which of the patterns want none of have covers.
func beyond(want, have []string) []string {
	var more []string
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h string) bool { return subject.Covers(h, w) }) {
			more = append(more, w)
		}
	}
	return more
}

// deliveries is how often c sends a message at most.
func deliveries(c jetstream.ConsumerConfig) string {
	if c.MaxDeliver <= 0 {
		return "no limit"
	}
	return strconv.Itoa(c.MaxDeliver)
}
