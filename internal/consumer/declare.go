package consumer

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/deadline"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/subject"
)

// metadataKey is the metadata of a durable that names its key. Without keys it is absent.
const metadataKey = "_omnibus.key"

// createdKey is the metadata of a durable that names the call which created it. So two calls at
// once do not both take a durable for theirs, and undo deletes none that another call created.
const createdKey = "_omnibus.created"

// minAckPending is how many messages of a durable may be unacknowledged, in all processes
// together, unless more of them are handled at once.
const minAckPending = 1000

// change is what a call of declare has done to the durable.
type change struct {
	created string                    // the value of createdKey, if it may have created it
	before  *jetstream.ConsumerConfig // what it was, if it may have been changed
}

// declare creates the durable, or adopts the one that exists. It returns what it has done also
// together with an error. Open calls it.
func declare(ctx context.Context, c *Config) (info *jetstream.ConsumerInfo, did change, err error) {
	want := wanted(c)
	con, err := c.Core.JetStream.Consumer(ctx, c.Stream.Name, want.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		call := rand.Text()
		con, err = create(ctx, c, want, call)
		if !errors.Is(err, jetstream.ErrConsumerExists) {
			did.created = call
		} else { // another process was faster
			con, err = c.Core.JetStream.Consumer(ctx, c.Stream.Name, want.Durable)
		}
	}
	if err != nil {
		return nil, did, jserr.Wrap(c.Stream.Name, "consume as "+c.Durable, explain(ctx, c, err))
	}
	have := con.CachedInfo()
	if did.created != "" {
		return have, did, nil
	}
	info, err = adopt(ctx, c, &did, have, want)
	return info, did, err
}

// create creates the durable, with the name of this call. It waits for the answer a little longer than ctx lasts, so that
// Open can undo it.
func create(ctx context.Context, c *Config, want jetstream.ConsumerConfig, call string) (jetstream.Consumer, error) {
	want.Metadata = maps.Clone(want.Metadata)
	if want.Metadata == nil {
		want.Metadata = make(map[string]string)
	}
	want.Metadata[createdKey] = call
	extended, done := deadline.Extend(ctx, undoTimeout)
	defer done()
	con, err := c.Core.JetStream.CreateConsumer(extended, c.Stream.Name, want)
	if err == nil {
		err = ctx.Err()
	}
	return con, err
}

// wanted returns the configuration of a new durable.
func wanted(c *Config) jetstream.ConsumerConfig {
	want := jetstream.ConsumerConfig{Durable: c.Durable, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: cmp.Or(c.AckWait, DefaultAckWait), MaxDeliver: -1, MaxAckPending: max(minAckPending, 4*c.atOnce())}
	if limit := c.Stream.ConsumerLimits.MaxAckPending; limit > 0 {
		want.MaxAckPending = min(want.MaxAckPending, limit)
	}
	if c.Key.Of != nil {
		want.Metadata = map[string]string{metadataKey: c.Key.Name}
	}
	switch {
	case slices.Contains(c.Filters, All): // the server is quicker without a filter
	case len(c.Filters) == 1:
		want.FilterSubject = c.Filters[0]
	default:
		want.FilterSubjects = c.Filters
	}
	c.Start.apply(&want)
	return want
}

// adopt uses the durable that exists. It sets the key that is asked for, and adds filters.
func adopt(ctx context.Context, c *Config, did *change, info *jetstream.ConsumerInfo, want jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	have := info.Config
	if c.Start == (Start{}) {
		copyStart(&want, have)
	}
	info, err := grow(ctx, c, did, info, want)
	if err != nil {
		return nil, err
	}
	return changeKey(ctx, c, did, info, want)
}

// changeKey sets the key of a durable, if it is new. While other processes ask for messages
// they use the old key, or none, and both together would keep no order.
func changeKey(ctx context.Context, c *Config, did *change, info *jetstream.ConsumerInfo, want jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	have := info.Config
	if have.Metadata[metadataKey] == want.Metadata[metadataKey] {
		return info, nil
	}
	if info.NumWaiting > 0 {
		return nil, &ConflictError{Fields: []Difference{{FieldKey, describeKey(have), describeKey(want)}}}
	}
	if did.before == nil { // grow has not changed it
		before := info.Config
		did.before = &before
	}
	have.Metadata = maps.Clone(have.Metadata)
	delete(have.Metadata, metadataKey)
	if have.Metadata == nil {
		have.Metadata = make(map[string]string)
	}
	maps.Copy(have.Metadata, want.Metadata)
	return update(ctx, c, have)
}

// update changes the durable and returns its state. The answer to the change is not its
// state: the first one after a server start has the configuration and the place of that
// start, and makes nats.go find filters missing.
func update(ctx context.Context, c *Config, to jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	_, err := c.Core.JetStream.UpdateConsumer(ctx, c.Stream.Name, to)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerMultipleFilterSubjectsNotSupported) {
		return nil, jserr.Wrap(c.Stream.Name, "update consumer "+strconv.Quote(to.Durable), err)
	}
	con, err := c.Core.JetStream.Consumer(ctx, c.Stream.Name, to.Durable)
	if err != nil {
		return nil, jserr.Wrap(c.Stream.Name, "update consumer "+strconv.Quote(to.Durable), err)
	}
	return con.CachedInfo(), nil
}

// describeKey describes the key of a durable to people.
func describeKey(c jetstream.ConsumerConfig) string { return cmp.Or(c.Metadata[metadataKey], "none") }

// conflict returns in what a durable differs from what Consume needs, or nil. The number of
// unacknowledged messages and the AckWait may differ.
func conflict(have, want jetstream.ConsumerConfig) *ConflictError {
	e := new(ConflictError)
	check := func(field string, have, want any) {
		if have != want {
			e.Fields = append(e.Fields, Difference{field, fmt.Sprint(have), fmt.Sprint(want)})
		}
	}
	has, wants := filtersOf(have), filtersOf(want)
	e.MissingFilters, e.ExtraFilters = subject.Uncovered(wants, has), subject.Uncovered(has, wants)
	if len(e.MissingFilters)+len(e.ExtraFilters) > 0 {
		check(FieldFilter, strings.Join(has, " "), strings.Join(wants, " "))
	}
	check("ack policy", have.AckPolicy, want.AckPolicy)
	check(FieldStart, startOf(have), startOf(want))
	check("replay policy", have.ReplayPolicy, want.ReplayPolicy)
	check("deliver subject", have.DeliverSubject, "")
	check("max deliver", maxDeliver(have), maxDeliver(want))
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

// filtersOf returns the patterns whose messages a durable gets.
func filtersOf(c jetstream.ConsumerConfig) []string {
	switch {
	case len(c.FilterSubjects) > 0:
		return c.FilterSubjects
	case c.FilterSubject != "":
		return []string{c.FilterSubject}
	}
	return []string{All}
}

// maxDeliver returns how often a durable sends a message, in words.
func maxDeliver(c jetstream.ConsumerConfig) string {
	if c.MaxDeliver <= 0 {
		return "no limit"
	}
	return strconv.Itoa(c.MaxDeliver)
}

// maxAckPending returns how many messages of a durable this process may have.
func maxAckPending(c jetstream.ConsumerConfig) int {
	if c.MaxAckPending <= 0 {
		return minAckPending
	}
	return c.MaxAckPending
}

// nextSubject is the API subject that takes requests for messages of a consumer.
func nextSubject(stream, durable string) string {
	return "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + durable
}

// infoSubject is the API subject that returns the state of a consumer.
func infoSubject(stream, durable string) string {
	return "$JS.API.CONSUMER.INFO." + stream + "." + durable
}
