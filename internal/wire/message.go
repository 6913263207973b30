package wire

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// Header is the header of one message. Keys are case-sensitive, as in NATS. It is nil if the
// message has no header.
type Header = map[string][]string

// Out is one encoded message to send.
type Out struct {
	Subject, Reply string
	Header         Header
	Data           []byte
}

// In is one received message. It is passed by value: it fits into the registers of a call, and
// that is cheaper than an allocation.
type In struct {
	Subject, Reply string
	Header         Header
	Data           []byte
}

// Delivery is a received message with what the queue and the stream add to it. It is passed by
// value, as In.
type Delivery struct {
	In

	Number int64   // the number of this run in its queue, from 1; set by the queue
	Stored *Stored // nil for core messages
}

// Stored is what is known of a message of a stream.
type Stored struct {
	Stream      string
	Sequence    uint64    // in Stream
	Incarnation string    // identifies Stream among streams of that name, if the message came by a side stream; see package sidestream
	Time        time.Time // when it was stored
	Deliveries  int       // how often the server sent it, from 1; prefetching counts
	Key         string    // messages with the same key are handled in order; empty without keys
	Attempt     int       // the number of this call of the handler in this process, from 1

	Source           int       // the source of the consumer from which it came; 0 is the stream itself
	SourceSequence   uint64    // its sequence in that source
	ConsumerSequence uint64    // the number of this delivery among those of that source
	HoldID           uint64    // identifies the hold of the message; see package intake
	Dead             error     // why it will not be handled; nil if it may be handled
	NumPending       uint64    // how many messages the consumer has after it
	DeadLetter       uint64    // the sequence of the dead letter that was redriven as this message; 0 if none was
	Isolation        Isolation // how its handler is called, because of earlier crashes
	Crashes          int       // the known number of crashes while it ran alone
	Restored         bool      // Isolation and Crashes are set
	Unbegun          bool      // no earlier process can have begun its handler, whatever its source
	MayRun           bool      // no earlier message of its key blocks it
	Rechecks         int       // how often in turn earlier messages of its key had to come back first
	Waited           bool      // it has waited for its next attempt, and its stream may have removed it meanwhile
	Removed          bool      // its stream removed it while it waited, which was reported
	Postponed        bool      // its handler has postponed it

	Context context.Context // of the handler call, nil before: the settlement belongs to its trace
}

// TriedBefore reports whether the handler was called before and the message is tried again.
func (s *Stored) TriedBefore() bool { return s.Attempt > 1 || s.Postponed }

// Isolation is how the handler is called for a message that may crash the process.
type Isolation int

// The levels of isolation.
const (
	NotIsolated Isolation = iota // as for any other message
	Marked                       // the recovery log has a mark while the handler runs
	Alone                        // also, no other handler of the consumer runs
)

// Size returns the approximate size of the message in bytes: subject, reply, data, and the
// header without its first line.
func (d *Delivery) Size() int {
	size := len(d.Subject) + len(d.Reply) + len(d.Data)
	for key, values := range d.Header {
		for _, value := range values {
			size += len(key) + len(value) + len(": \r\n")
		}
	}
	return size
}

const (
	ackPrefix = "$JS.ACK."
	ackTokens = 7 // after the prefix, from old servers; new servers send two more before these, and perhaps some after
)

var errNoAck = errors.New("its reply subject is not that of a message of a stream")

// ReadAck sets the fields of s that the ack subject of a message names: the stream, the
// sequences, the time and the number of deliveries. It does the same as Metadata of nats.go
// without an allocation, and it refuses a token that is not a number.
func (s *Stored) ReadAck(subject string) error {
	rest, ok := strings.CutPrefix(subject, ackPrefix)
	n := strings.Count(rest, ".") + 1
	if !ok || n < ackTokens || n == ackTokens+1 {
		return errNoAck
	}
	if n > ackTokens { // domain and account
		_, rest, _ = strings.Cut(rest, ".")
		_, rest, _ = strings.Cut(rest, ".")
	}
	s.Stream, rest, _ = strings.Cut(rest, ".")
	_, rest, _ = strings.Cut(rest, ".") // the consumer
	var numbers [5]int64
	for i := range numbers {
		var token string
		token, rest, _ = strings.Cut(rest, ".")
		number, err := strconv.ParseUint(token, 10, 63)
		if err != nil {
			return errNoAck
		}
		numbers[i] = int64(number)
	}
	s.Deliveries = int(min(numbers[0], math.MaxInt32))
	s.Sequence, s.ConsumerSequence = uint64(numbers[1]), uint64(numbers[2])
	s.Time, s.NumPending = time.Unix(0, numbers[3]), uint64(numbers[4])
	return nil
}
