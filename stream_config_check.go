package bus

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/omnibus-go/bus/internal/streamdef"
)

// check returns everything that is wrong with c, whatever the server has, as joined errors.
func (c *StreamConfig) check() error {
	var errs []error
	if !streamName.MatchString(c.Name) {
		errs = append(errs, badStreamName(c.Name))
	}
	for _, s := range c.Subjects {
		errs = append(errs, checkPattern(s))
	}
	errs = append(errs, c.checkKinds(), c.checkLimits())
	for key := range c.Metadata {
		if streamdef.Reserved(key) {
			errs = append(errs, badStreamField("Metadata", strconv.Quote(key), "keys that begin with _nats. or _omnibus. are not the program's"))
		}
	}
	return errors.Join(errs...)
}

// checkKinds checks the fields that have few values.
func (c *StreamConfig) checkKinds() error {
	var errs []error
	if c.Revision < 0 {
		errs = append(errs, badStreamField("Revision", c.Revision, "must not be negative"))
	}
	if c.Storage < 0 || c.Storage > MemoryStorage {
		errs = append(errs, badStreamField("Storage", int(c.Storage), "use FileStorage or MemoryStorage"))
	}
	if c.Replicas < 0 || c.Replicas > 5 {
		errs = append(errs, badStreamField("Replicas", c.Replicas, "must lie between 1 and 5"))
	}
	if c.Retention < 0 || c.Retention > InterestRetention {
		errs = append(errs, badStreamField("Retention", int(c.Retention), "use LimitsRetention, WorkQueueRetention or InterestRetention"))
	}
	if c.Discard < 0 || c.Discard > DiscardNewPerSubject {
		errs = append(errs, badStreamField("Discard", int(c.Discard), "use DiscardOld, DiscardNew or DiscardNewPerSubject"))
	}
	return errors.Join(errs...)
}

// checkLimits checks numbers and durations.
func (c *StreamConfig) checkLimits() error {
	var errs []error
	for _, limit := range []struct {
		field string
		value int64
	}{{"MaxMsgs", c.MaxMsgs}, {"MaxBytes", c.MaxBytes}, {"MaxMsgsPerSubject", c.MaxMsgsPerSubject}, {"MaxMsgSize", int64(c.MaxMsgSize)}} {
		if limit.value < Unlimited {
			errs = append(errs, badStreamField(limit.field, limit.value, "must be more than zero, or bus.Unlimited"))
		}
	}
	if c.MaxAge != Unlimited && c.MaxAge != 0 && (c.MaxAge < 100*time.Millisecond || c.MaxAge > farthest) {
		errs = append(errs, badStreamField("MaxAge", c.MaxAge, "must be at least 100ms and at most 100 years, or bus.Unlimited"))
	}
	if c.Duplicates < 0 || c.Duplicates > 0 && c.Duplicates < 100*time.Millisecond || c.Duplicates > farthest {
		errs = append(errs, badStreamField("Duplicates", c.Duplicates, "must be at least 100ms and at most 100 years"))
	}
	errs = append(errs, checkDuplicates(c.Duplicates, c.MaxAge))
	return errors.Join(errs...)
}

// checkDuplicates returns an error if MsgIDs are remembered for longer than messages live.
func checkDuplicates(window, age time.Duration) error {
	if age > 0 && window > age {
		return badStreamField("Duplicates", window, fmt.Sprintf("must not be longer than MaxAge, %v", age))
	}
	return nil
}
