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

// Storage says where a stream keeps its messages. The zero value keeps the storage of an
// existing stream. For a new stream it is FileStorage with WithStoreDir and on external
// servers, else MemoryStorage.
type Storage int

// The kinds of storage.
const (
	FileStorage Storage = iota + 1
	MemoryStorage
)

// Retention says when a stream deletes a message by itself. The zero value keeps the
// retention of an existing stream, and is LimitsRetention for a new one.
type Retention int

// The kinds of retention.
const (
	LimitsRetention    Retention = iota + 1 // when a limit is reached
	WorkQueueRetention                      // also when its consumer has handled it; each message has one consumer
	InterestRetention                       // also when all consumers have handled it; at once if there are none
)

// Discard says what a full stream does with a new message. The zero value keeps the
// setting of an existing stream, and is DiscardOld for a new one.
type Discard int

// The ways to discard.
const (
	DiscardOld           Discard = iota + 1 // delete the oldest messages
	DiscardNew                              // refuse the new message at MaxMsgs and MaxBytes
	DiscardNewPerSubject                    // refuse it at MaxMsgsPerSubject, too
)

// StreamConfig describes a stream for Bus.Stream and Stream.Plan. A zero field keeps the
// value of an existing stream, and means the server's default for a new one. To clear a
// limit of an existing stream, set Unlimited. To switch off what is on, use Raw.
type StreamConfig struct {
	Name        string   // 1 to 200 letters, digits, - and _; required
	Subjects    []string // the subjects it stores, wildcards allowed; the default for a new stream is its name
	Description string   // at most 4 KiB

	// Revision orders the versions of this configuration, from 1. The stream keeps the
	// highest one. A configuration with a lower Revision changes nothing, so an older
	// version of a program does not undo the changes of a newer one. Raise it with each
	// change. 0 means no order; see Bus.Stream.
	Revision int

	Storage        Storage
	CompressAtRest bool // compress on disk, with S2
	Replicas       int  // copies in a cluster, 1 to 5

	Retention         Retention
	MaxAge            time.Duration // older messages are deleted; at least 100 ms
	MaxMsgs           int64         // the highest number of messages; then Discard applies
	MaxBytes          int64         // the highest number of bytes; then Discard applies
	MaxMsgsPerSubject int64         // the highest number of messages on one subject; then its oldest are deleted
	MaxMsgSize        int32         // larger messages are refused; bytes, with headers
	Discard           Discard

	// Duplicates is how long the stream remembers each MsgID. The default for a new
	// stream is 2 minutes, or MaxAge if that is shorter. A MaxAge below it shortens it.
	Duplicates time.Duration

	AtomicBatches bool // accept PublishToBatch; needs nats-server 2.12
	MessageTTL    bool // accept TTL; needs nats-server 2.11, cannot be switched off again

	// Metadata is kept with the stream. Keys that are missing here keep their values.
	// Keys that begin with "_nats." or "_omnibus." are reserved.
	Metadata map[string]string

	// Raw sets what the fields above do not offer: mirrors, sources, subject transforms,
	// republishing, placement and so on. It is called with the configuration that the
	// other fields make: of a new stream all of it, of an existing stream the server's
	// configuration with these fields applied. So assign lists and do not append to them, or
	// each start adds their elements again. The same rules hold for its changes. It may be called
	// more than once. It must not change Name, and must not use the bus. A
	// panic becomes a *PanicError.
	Raw func(*jetstream.StreamConfig)
}

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
