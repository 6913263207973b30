package ownership

import (
	"errors"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/dead"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// Task is one message that a process handles: the job-th that an owner gave out.
type Task struct {
	Epoch uint64 `json:"epoch"`
	Job   uint64 `json:"job"`
	Key   string `json:"key"` // see keyOf
}

// noKey is the key of a message that has none: it waits for nobody.
const noKey = "-"

// keyOf stands for a key wherever the processes talk about it. Two keys with the same
// one wait for each other, no more.
func keyOf(key string) string {
	if key == "" {
		return noKey
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(key)) // it cannot fail
	return strconv.FormatUint(h.Sum64(), 36)
}

// request is what a member asks of an owner: one of the two.
type request struct {
	Beat   *beat   `json:"beat,omitempty"`
	Result *result `json:"result,omitempty"`
}

// beat says that a member is there.
type beat struct {
	Member  string        `json:"member"`
	TTL     time.Duration `json:"ttl"`            // by which it lives, nanoseconds
	Hands   int           `json:"hands"`          // how many messages it handles at once
	Gone    bool          `json:"gone,omitempty"` // it will not come again
	Running []Task        `json:"running"`        // of any epoch
}

// result is the outcome of a task.
type result struct {
	Member  string `json:"member"`
	Task    Task   `json:"task"`
	Outcome report `json:"outcome"`
}

// answer is what an owner answers: whether the outcome counts. That of a beat always
// does.
type answer struct {
	OK bool `json:"ok"`
}

// report is a settle.Outcome that travels.
type report struct {
	Failed    bool          `json:"failed,omitempty"`
	Error     string        `json:"error,omitempty"`
	Cause     string        `json:"cause,omitempty"`
	Permanent bool          `json:"permanent,omitempty"`
	Asked     bool          `json:"asked,omitempty"`
	After     time.Duration `json:"after,omitempty"`
	Postponed bool          `json:"postponed,omitempty"`
	Returned  bool          `json:"returned,omitempty"` // it was not begun, or cut off
}

// textTooLong is what the owner hears of an error whose text does not pass.
const textTooLong = "the text of the error is too long to be sent"

// Failure is the error of a handler that ran in another process.
type Failure struct {
	Cause string // what kind of failure
	Text  string
}

func (f *Failure) Error() string { return f.Text }

func reportOf(o settle.Outcome, cause func(error) string) report {
	r := report{Permanent: o.Permanent, Asked: o.Asked, After: o.After, Postponed: o.Postponed, Returned: o.Returned}
	if o.Err != nil {
		r.Failed, r.Error, r.Cause = true, dead.Shorten(o.Err.Error()), cause(o.Err)
	}
	return r
}

func (r report) outcome() settle.Outcome {
	o := settle.Outcome{Permanent: r.Permanent, Asked: r.Asked, After: r.After, Postponed: r.Postponed, Returned: r.Returned}
	if r.Failed {
		o.Err = &Failure{Cause: r.Cause, Text: r.Error}
	}
	return o
}

// jobOut is the message by which d travels to a member. What the member must know
// besides the message is in the reply subject, where the server tells as well when
// nobody takes it.
func jobOut(d *wire.Delivery, subject, inbox string, t Task) wire.Out {
	c := dead.Copy{Subject: d.Subject, Header: d.Header, Data: d.Data, Stream: d.Stored.Stream,
		Sequence: d.Stored.Sequence, Time: d.Stored.Time, Attempts: d.Stored.Attempt - 1}
	out := c.Out(subject)
	delete(out.Header, wire.HeaderNatsExpectedLastSubjectSequence)
	out.Reply = strings.Join([]string{inbox, strconv.FormatUint(t.Epoch, 36), strconv.FormatUint(t.Job, 36), t.Key,
		strconv.Itoa(d.Stored.Deliveries)}, ".")
	return out
}

var errNoJob = errors.New("not a message that an owner gave out")

// jobOf is the reverse of jobOut.
func jobOf(m *nats.Msg) (wire.Delivery, Task, error) {
	t, deliveries, ok := taskOf(m.Reply)
	c, err := dead.Parse(wire.Header(m.Header), m.Data)
	if !ok || err != nil {
		return wire.Delivery{}, t, errors.Join(errNoJob, err)
	}
	return wire.Delivery{In: wire.In{Subject: c.Subject, Header: c.Header, Data: c.Data}, Stored: &wire.Stored{
		Stream: c.Stream, Sequence: c.Sequence, Time: c.Time, Deliveries: deliveries, Attempt: c.Attempts + 1}}, t, nil
}

// taskOf parses a reply subject that jobOut made.
func taskOf(reply string) (t Task, deliveries int, ok bool) {
	parts := strings.Split(reply, ".")
	if len(parts) < 5 {
		return t, 0, false
	}
	parts = parts[len(parts)-4:]
	var errs [3]error
	t.Epoch, errs[0] = strconv.ParseUint(parts[0], 36, 64)
	t.Job, errs[1] = strconv.ParseUint(parts[1], 36, 64)
	t.Key = parts[2]
	deliveries, errs[2] = strconv.Atoi(parts[3])
	return t, deliveries, errors.Join(errs[:]...) == nil
}
