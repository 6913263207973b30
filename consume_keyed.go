package bus

import (
	"context"
	"fmt"
	"maps"

	"github.com/nats-io/nats.go/jetstream"
)

// metadataKey is where a durable has how its members name keys: as the option says it,
// absent without keys.
const metadataKey = "_omnibus.key"

// keyMetadata is what the consumer of o has in its metadata.
func (o *consumeOptions) keyMetadata() map[string]string {
	if o.key.make == nil {
		return nil
	}
	return map[string]string{metadataKey: o.key.name}
}

// sayKey is a key for people.
func sayKey(c jetstream.ConsumerConfig) string {
	if key := c.Metadata[metadataKey]; key != "" {
		return key
	}
	return "none"
}

// changeKey has the durable whose consumer is info named keys as want says, where that
// is new. While others ask for messages they go by the old key, or by none, and both
// together would keep no order.
func (s *Stream) changeKey(ctx context.Context, info *jetstream.ConsumerInfo, want jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	have := info.Config
	if have.Metadata[metadataKey] == want.Metadata[metadataKey] {
		return info, nil
	}
	if info.NumWaiting > 0 {
		return nil, &ConsumerConflictError{Stream: s.name, Durable: want.Durable, Fields: []FieldChange{{Field: fieldKey, Have: sayKey(have), Want: sayKey(want)}}}
	}
	have.Metadata = maps.Clone(have.Metadata)
	delete(have.Metadata, metadataKey)
	if have.Metadata == nil {
		have.Metadata = make(map[string]string)
	}
	maps.Copy(have.Metadata, want.Metadata)
	con, err := s.bus.core.JetStream.UpdateConsumer(ctx, s.name, have)
	if err != nil {
		return nil, streamError(s.name, "update the consumer", err)
	}
	return con.CachedInfo(), nil
}

// takeKeys makes c the one consumer of its bus that takes its durable with keys, where
// the order is not kept together: two of them would wait for each other's messages.
func (c *Consumer) takeKeys(o *consumeOptions) error {
	if o.key.make == nil || o.shares(c.bus) {
		return nil
	}
	name := durableName{c.stream, c.durable}
	for {
		other, taken := c.bus.keyed.LoadOrStore(name, c)
		if !taken {
			return nil
		}
		if other.(*Consumer).life.Err() == nil {
			return &OptionError{Option: o.key.option, Value: o.key.name, Reason: fmt.Sprintf(
				"this bus has a consumer with keys of durable %q of stream %q already; end that first, give it more Concurrency, or open a port with WithListen, then several keep the order together", c.durable, c.stream)}
		}
		if c.bus.keyed.CompareAndSwap(name, other, c) {
			return nil
		}
	}
}

// leaveKeys ends takeKeys.
func (c *Consumer) leaveKeys() { c.bus.keyed.CompareAndDelete(durableName{c.stream, c.durable}, c) }
