package ownership

import (
	"errors"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// The names of the JSON fields are older than those of the Go fields. They stay: members
// of different versions share a durable.

// request is what a member sends to an owner: exactly one of the two.
type request struct {
	Heartbeat *heartbeat     `json:"beat,omitempty"`
	Outcome   *outcomeReport `json:"result,omitempty"`
}

// heartbeat says that a member is alive, and what it runs.
type heartbeat struct {
	Member  string         `json:"member"`
	TTL     time.Duration  `json:"ttl"`            // of this member, nanoseconds
	Workers int            `json:"hands"`          // how many messages it handles at once
	Left    bool           `json:"gone,omitempty"` // the last heartbeat: it has left
	Running []assignmentID `json:"running"`        // of any epoch
}

// outcomeReport says how a member's handler call ended.
type outcomeReport struct {
	Member     string       `json:"member"`
	Assignment assignmentID `json:"task"`
	Outcome    outcome      `json:"outcome"`
}

// reply is an owner's reply: whether the outcome counts, and whether the message will be
// tried again. A heartbeat always counts.
type reply struct {
	OK       bool          `json:"ok"`
	Retrying bool          `json:"retrying,omitempty"`
	TTL      time.Duration `json:"ttl,omitempty"` // to a heartbeat: the owner's, nanoseconds
}

// assignmentID identifies an assignment: one message that an owner gave to a worker.
type assignmentID struct {
	Epoch  uint64 `json:"epoch"`
	Number uint64 `json:"job"` // counts from 1 in each epoch
	Key    string `json:"key"` // see keyHash
}

// noKey is the hash of a message without a key. Such a message waits for no other.
const noKey = "-"

// keyHash returns what stands for a key between processes. Two keys with the same hash
// wait for each other, which does no harm.
func keyHash(key string) string {
	if key == "" {
		return noKey
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(key)) // cannot fail
	return strconv.FormatUint(h.Sum64(), 36)
}

// outcome is the form of a settle.Outcome between processes.
type outcome struct {
	Failed    bool          `json:"failed,omitempty"`
	Error     string        `json:"error,omitempty"`
	Cause     string        `json:"cause,omitempty"`
	Permanent bool          `json:"permanent,omitempty"`
	Asked     bool          `json:"asked,omitempty"`
	After     time.Duration `json:"after,omitempty"`
	Postponed bool          `json:"postponed,omitempty"`
	Returned  bool          `json:"returned,omitempty"` // the call did not begin, or was cut off
}

// textTooLong replaces the text of an error that exceeds the server's message limit.
const textTooLong = "the text of the error is too long to be sent"

func encodeOutcome(o settle.Outcome, cause func(error) string) outcome {
	e := outcome{Permanent: o.Permanent, Asked: o.Asked, After: o.After, Postponed: o.Postponed, Returned: o.Returned}
	if o.Err != nil {
		e.Failed, e.Error, e.Cause = true, sidestream.Shorten(o.Err.Error()), cause(o.Err)
	}
	return e
}

// decode is the reverse of encodeOutcome. The error becomes a settle.Failure.
func (e outcome) decode() settle.Outcome {
	o := settle.Outcome{Permanent: e.Permanent, Asked: e.Asked, After: e.After, Postponed: e.Postponed, Returned: e.Returned}
	if e.Failed {
		o.Err = &settle.Failure{Cause: e.Cause, Text: e.Error}
	}
	return o
}

// encodeAssignment returns the message that brings d to a member. The reply subject,
// below inbox, carries what the member must know besides the message. The server sends its
// "no responders" there too.
func encodeAssignment(d *wire.Delivery, subject, inbox string, id assignmentID) wire.Out {
	c := sidestream.Copy{Subject: d.Subject, Header: d.Header, Data: d.Data, Stream: d.Stored.Stream,
		Sequence: d.Stored.Sequence, Time: d.Stored.Time, Attempts: d.Stored.Attempt - 1}
	out := c.Message(subject)
	delete(out.Header, wire.HeaderNatsExpectedLastSubjectSequence)
	out.Reply = strings.Join([]string{inbox, strconv.FormatUint(id.Epoch, 36), strconv.FormatUint(id.Number, 36), id.Key,
		strconv.Itoa(d.Stored.Deliveries)}, ".")
	return out
}

var (
	errNoAssignment = errors.New("not a message that an owner assigned")
	errNoRequest    = errors.New("not a request of a member")
)

// decodeAssignment is the reverse of encodeAssignment.
func decodeAssignment(m *nats.Msg) (wire.Delivery, assignmentID, error) {
	id, deliveries, ok := parseReplySubject(m.Reply)
	c, err := sidestream.ParseCopy(wire.Header(m.Header), m.Data)
	if !ok || err != nil {
		return wire.Delivery{}, id, errors.Join(errNoAssignment, err)
	}
	return wire.Delivery{In: wire.In{Subject: c.Subject, Header: c.Header, Data: c.Data}, Stored: &wire.Stored{
		Stream: c.Stream, Sequence: c.Sequence, Time: c.Time, Deliveries: deliveries, Attempt: c.Attempts + 1}}, id, nil
}

// parseReplySubject parses the reply subject of an assignment.
func parseReplySubject(subject string) (id assignmentID, deliveries int, ok bool) {
	parts := strings.Split(subject, ".")
	if len(parts) < 5 {
		return id, 0, false
	}
	parts = parts[len(parts)-4:]
	var errs [3]error
	id.Epoch, errs[0] = strconv.ParseUint(parts[0], 36, 64)
	id.Number, errs[1] = strconv.ParseUint(parts[1], 36, 64)
	id.Key = parts[2]
	deliveries, errs[2] = strconv.Atoi(parts[3])
	return id, deliveries, deliveries >= 0 && errors.Join(errs[0], errs[1], errs[2], checkIDs(id)) == nil
}
