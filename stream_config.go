package bus

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
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
