package bus

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Storage says where a stream keeps its messages.
type Storage int

// The kinds of storage. The zero value decides by the bus: on disk with
// WithStoreDir and on external servers, else in memory.
const (
	FileStorage Storage = iota + 1
	MemoryStorage
)

// Retention says when a stream removes a message by itself.
type Retention int

// The kinds of retention. The zero value leaves an existing stream as it is, and is
// LimitsRetention for a new one.
const (
	LimitsRetention    Retention = iota + 1 // when a limit is reached
	WorkQueueRetention                      // also when a consumer has handled it; each message has one consumer
	InterestRetention                       // also when all consumers have handled it; without consumers at once
)

// Discard says what a stream does with a new message when it is full.
type Discard int

// The ways to discard. The zero value leaves an existing stream as it is, and is
// DiscardOld for a new one.
const (
	DiscardOld           Discard = iota + 1 // removes the oldest messages
	DiscardNew                              // refuses the new message at MaxMsgs and MaxBytes
	DiscardNewPerSubject                    // refuses it at MaxMsgsPerSubject, too
)

// StreamConfig describes a stream. A zero field leaves an existing stream as it
// is, and means the server's default for a new one. Unlimited clears a limit of an
// existing stream. So what was switched on is switched off again by Raw only.
type StreamConfig struct {
	Name        string   // letters, digits, - and _
	Subjects    []string // what it stores, wildcards allowed; empty means the name itself, or nothing with Mirror
	Description string   // at most 4 KiB

	// Revision orders the versions of this configuration, from 1 on. It is kept with
	// the stream: a lower one than that never changes the stream, so that an older
	// program does not undo what a newer one did. See Bus.Stream for what it means
	// without one.
	Revision int

	Storage        Storage
	CompressAtRest bool // on disk, with S2
	Replicas       int  // copies in a cluster, 1 to 5

	Retention         Retention
	MaxAge            time.Duration // messages older than this are removed; at least 100 ms
	MaxMsgs           int64         // with more messages than these Discard holds
	MaxBytes          int64         // with more bytes than these Discard holds
	MaxMsgsPerSubject int64         // with more messages than these on one subject its oldest are removed
	MaxMsgSize        int32         // a larger message, headers included, is refused; bytes
	Discard           Discard
	Duplicates        time.Duration // how long a MsgID is remembered; the default is 2 minutes, or MaxAge if that is less, or nothing with Sources. A MaxAge below it shortens it, and it stays so

	// SubjectDeleteMarkerTTL has the server store a marker where the last message of a
	// subject was removed by age or by hand, and remove it after this time, at least
	// 1 s. It needs a server of version 2.11 or newer, as Counters needs 2.12.
	SubjectDeleteMarkerTTL time.Duration

	// Counters makes of each subject a counter that the header Nats-Incr adds to. It
	// is chosen when a stream is made.
	Counters bool

	// What the stream can do besides. False leaves it as it is.
	AtomicBatches bool // it takes PublishToBatch; server 2.12 or newer
	MessageTTL    bool // it takes TTL, and cannot be made to refuse it again; server 2.11 or newer

	Mirror           StreamSource     // a copy of another stream, which stores nothing else; chosen when it is made
	Sources          []StreamSource   // other streams whose messages are copied into this one; one whose ID is in the window of Duplicates is not
	SubjectTransform SubjectTransform // under which subject a message is stored
	Republish        Republish        // what is published of a message that was stored

	// Metadata is kept with the stream. Keys that are not here stay as they are. Keys
	// that begin with "_nats." or "_omnibus." are the server's and the library's.
	Metadata map[string]string

	// Raw changes what is sent to the server, for what the fields above do not
	// offer. It gets what they make of the stream: of a new one the whole
	// configuration, of an existing one the server's with them laid over it. What it
	// changes is held to the same rules as they are. It may be called more than once,
	// must not change Name, and must not use the bus.
	Raw func(*jetstream.StreamConfig)
}

// StreamSource is a stream whose messages another one copies. The zero value is none.
type StreamSource struct {
	Stream     string
	Subject    string             // only messages on subjects that match this pattern
	Transforms []SubjectTransform // instead of Subject: only messages that match a From, under that To

	StartSequence uint64    // from this sequence on
	StartTime     time.Time // or from this time on

	Domain string // the JetStream domain of the stream, where that is another one
}

// SubjectTransform makes of a subject that matches From the subject To, in which
// {{wildcard(1)}} is what the first wildcard of From stands for. The zero value is
// none.
type SubjectTransform struct{ From, To string }

// Republish has the server publish each message that it has stored and whose
// subject matches From to the subject To, made as SubjectTransform says. The zero
// value is none.
type Republish struct {
	From        string // empty means all
	To          string
	HeadersOnly bool // with the size of the payload in a header, instead of it
}
