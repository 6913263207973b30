// Package wire is what travels: encoded messages, their headers, compression, and the
// choice of a codec by content type. Everything here that reads foreign bytes is bounded,
// returns typed errors and is fuzzed.
package wire

import (
	"context"
	"time"
)

// Header is the header of one message, keys as on the wire: case-sensitive, as in NATS.
// Nil where a message has none.
type Header = map[string][]string

// Out is one encoded message on its way out.
type Out struct {
	Subject, Reply string
	Header         Header
	Data           []byte
}

// In is one encoded message on its way in. It is passed by value, since that is cheaper
// than an allocation for each: it fits into the registers of a call.
type In struct {
	Subject, Reply string
	Header         Header
	Data           []byte
}

// Delivery is a message that is queued, or comes from a stream. It is passed by value,
// too.
type Delivery struct {
	In

	Number int64   // which run of its queue this is, from 1; set by the queue
	Stored *Stored // nil for core messages
}

// Stored is what is known of a message of a stream.
type Stored struct {
	Stream      string
	Sequence    uint64    // in Stream
	Incarnation string    // which of the streams of that name, where it was put aside before; see package dead
	Time        time.Time // when it was stored
	Deliveries  int       // how often the server sent it, prefetches included; from 1
	Key         string    // of whose messages the order is kept; empty without keys
	Attempt     int       // which call of the handler in this process this is; from 1

	Source           int       // which of its consumer's sources it came from; 0 is the stream itself
	SourceSequence   uint64    // its sequence there
	ConsumerSequence uint64    // of this delivery among those of that source
	HoldID           uint64    // which hold of its consumer's it is; see package intake
	Dead             error     // why it will not be handled; nil while it may
	NumPending       uint64    // how many the consumer has after it
	DeadLetter       uint64    // the sequence of the dead letter that it was; 0 where it was none
	Isolation        Isolation // how its handler is called; what is known of it says so
	Crashes          int       // of processes while it ran alone, as far as that is known
	Restored         bool      // Trial and Deaths are set
	MayRun           bool      // no earlier message of its key stands in its way

	Context context.Context // of the handler call, once there was one: the settlement belongs to its trace
}

// Trial is how the handler of a message is called that may end the process.
type Isolation int

// The trials.
const (
	NotIsolated Isolation = iota // as any other
	Marked                       // a mark says so for as long as it runs
	Alone                        // and nothing runs beside it
)

// Size is about what the message weighs in bytes: subject, reply, data and header, the
// latter as it is on the wire without its first line.
func (d *Delivery) Size() int {
	size := len(d.Subject) + len(d.Reply) + len(d.Data)
	for key, values := range d.Header {
		for _, value := range values {
			size += len(key) + len(value) + len(": \r\n")
		}
	}
	return size
}
