package bus

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/streamdef"
	"github.com/omnibus-go/bus/internal/subject"
)

// check returns everything that is wrong with c, whatever the server has, as joined errors.
func (c *StreamConfig) check() error {
	var errs []error
	if !streamName.MatchString(c.Name) {
		errs = append(errs, badName("StreamConfig.Name", c.Name))
	}
	for _, s := range c.Subjects {
		errs = append(errs, checkPattern(s))
	}
	errs = append(errs, c.checkSubjects(), c.checkKinds(), c.checkLimits())
	for key := range c.Metadata {
		if streamdef.Reserved(key) {
			errs = append(errs, badStreamField("Metadata", strconv.Quote(key), "keys that begin with _nats. or _omnibus. are not the program's"))
		}
	}
	return errors.Join(errs...)
}

// ofServer are the subjects that the server keeps for itself, and those of them that a stream may store.
var ofServer = []struct{ all, free string }{{"$JS.>", "$JS.EVENT.>"}, {"$JSC.>", ""}, {"$NRG.>", ""}, {"$SYS.>", "$SYS.ACCOUNT.>"}}

// checkSubjects checks the subjects against each other and those of the server. Raw may change what
// they are.
func (c *StreamConfig) checkSubjects() error {
	if c.Raw != nil {
		return nil
	}
	var errs []error
	for i, s := range c.Subjects {
		if j := slices.IndexFunc(c.Subjects[:i], func(other string) bool { return subject.Overlap(s, other) }); j >= 0 {
			errs = append(errs, badStreamField("Subjects", strconv.Quote(s), fmt.Sprintf("overlaps with %q; leave one out, each message is stored once", c.Subjects[j])))
		}
		for _, own := range ofServer {
			if subject.Overlap(s, own.all) && (own.free == "" || len(subject.Uncovered([]string{s}, []string{own.free})) > 0) {
				errs = append(errs, badStreamField("Subjects", strconv.Quote(s), fmt.Sprintf("has subjects of the server itself (%s); name those of the program, such as \"shop.>\"", own.all)))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// checkDiscard returns an error if a stream refuses messages at a limit that it does not have.
func checkDiscard(js *jetstream.StreamConfig) error {
	if js.DiscardNewPerSubject && js.MaxMsgsPerSubject <= 0 {
		return badStreamField("Discard", "DiscardNewPerSubject", "needs a MaxMsgsPerSubject, at which it refuses messages")
	}
	return nil
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
