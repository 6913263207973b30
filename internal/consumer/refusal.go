package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/subject"
)

// explainTimeout bounds how long an error waits for its explanation.
const explainTimeout = time.Second

// explain adds to err, the server's refusal of the durable of c, what the stream has that
// stands in its way.
func explain(ctx context.Context, c *Config, err error) error {
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	switch {
	case jserr.Is(err, jserr.WorkQueueTaken, jserr.WorkQueueTakenWhole):
		if taken := takers(ctx, c); len(taken) > 0 {
			return fmt.Errorf("%w: %s", err, strings.Join(taken, " and "))
		}
	case jserr.Is(err, jserr.TooManyConsumers):
		if st, failed := c.Core.JetStream.Stream(ctx, c.Stream.Name); failed == nil {
			return fmt.Errorf("%w: the stream has %d consumers%s", err, st.CachedInfo().State.Consumers, limitOf(st.CachedInfo().Config.MaxConsumers))
		}
	case jserr.Is(err, jserr.TooManyUnacknowledged):
		return fmt.Errorf("%w: the consumer asks for %d", err, wanted(c).MaxAckPending)
	}
	return err
}

// sideError names the consumer of which a side stream could not be declared.
func sideError(c *Config, err error) error {
	failed, ok := errors.AsType[*jserr.Error](err)
	if !ok || failed.Stream == c.Stream.Name {
		return err
	}
	return jserr.Wrap(c.Stream.Name, fmt.Sprintf("consume as %s: %s %s", c.Durable, failed.Op, failed.Stream), failed.Err)
}

// limitOf says what limits the consumers of a stream with a MaxConsumers.
func limitOf(maxConsumers int) string {
	if maxConsumers > 0 {
		return fmt.Sprintf(", its MaxConsumers is %d", maxConsumers)
	}
	return ", and the account or the server allows no more"
}

// takers describes the durables of a work queue that take some of the messages of c.
func takers(ctx context.Context, c *Config) (found []string) {
	st, err := c.Core.JetStream.Stream(ctx, c.Stream.Name)
	if err != nil {
		return nil
	}
	for info := range st.ListConsumers(ctx).Info() {
		for _, have := range filtersOf(info.Config) {
			if i := firstOverlap(c.Filters, have); i >= 0 {
				found = append(found, fmt.Sprintf("durable %q takes %q already", info.Name, have))
				break
			}
		}
	}
	return found
}

// firstOverlap returns the index of the first filter that overlaps with pattern, or -1.
func firstOverlap(filters []string, pattern string) int {
	for i, f := range filters {
		if subject.Overlap(f, pattern) {
			return i
		}
	}
	return -1
}
