package bus

import (
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nuid"

	"github.com/omnibus-go/bus/internal/wire"
)

type storeOption func(*sendOptions)

func (f storeOption) onStore(o *sendOptions) { f(o) }

// AutoID gives the message an identifier of its own, so that it can be sent again
// when the answer is lost. That is all: a program that is killed and publishes again
// gets another identifier, so use MsgID where the message has one. With MsgID it
// changes nothing.
func AutoID() StoreOption {
	return storeOption(func(o *sendOptions) { o.autoID = true })
}

// fillID makes an identifier where AutoID asks for one.
func (o *sendOptions) fillID() {
	if o.autoID && o.id == "" {
		o.id = nuid.Next()
		o.set(wire.HeaderNatsMsgID, o.id)
	}
}

// TTL has the stream remove the message after d, whole seconds from one on. The
// stream must be declared with StreamConfig.MessageTTL, else it is a
// *StreamFeatureError. The stream's own limits may remove it earlier.
func TTL(d time.Duration) StoreOption {
	return storeOption(func(o *sendOptions) {
		if d < time.Second || d%time.Second != 0 {
			o.mistake(&OptionError{Option: "TTL", Value: d.String(), Reason: "must be whole seconds, at least 1s"})
			return
		}
		o.set(wire.HeaderNatsTTL, strconv.FormatInt(int64(d/time.Second), 10)+"s")
	})
}

// expectation is what must be the last sequence for a message to be stored.
type expectation struct {
	option   string
	whole    bool   // of the stream
	filter   string // of the subjects that it matches; empty: of the message's own
	sequence uint64
}

// of is the subject or filter whose last sequence is expected, for a message on
// subj; empty for the whole stream.
func (e *expectation) of(subj string) string {
	if e.whole || e.filter != "" {
		return e.filter
	}
	return subj
}

// ExpectLastSequence stores the message only if n is the sequence of the stream's
// last message, 0 for one that never had any. Otherwise it is a *ConflictError. A
// message has one expectation.
func ExpectLastSequence(n uint64) StoreOption {
	return storeOption(func(o *sendOptions) {
		o.expects(expectation{option: "ExpectLastSequence", whole: true, sequence: n})
		o.set(wire.HeaderNatsExpectedLastSequence, strconv.FormatUint(n, 10))
	})
}

// ExpectLastSubjectSequence stores the message only if n is the sequence, in the
// stream, of the last message on the same subject; 0 means that there is none.
// Otherwise it is a *ConflictError. A message has one expectation.
func ExpectLastSubjectSequence(n uint64) StoreOption {
	return storeOption(func(o *sendOptions) {
		o.expects(expectation{option: "ExpectLastSubjectSequence", sequence: n})
		o.set(wire.HeaderNatsExpectedLastSubjectSequence, strconv.FormatUint(n, 10))
	})
}

// ExpectLastSequenceOf is ExpectLastSubjectSequence for the last message on any
// subject that filter matches, as all events of one order: "shop.orders.17.>".
func ExpectLastSequenceOf(filter string, n uint64) StoreOption {
	return storeOption(func(o *sendOptions) {
		if err := checkPattern(filter); err != nil {
			o.mistake(err)
			return
		}
		o.expects(expectation{option: "ExpectLastSequenceOf", filter: filter, sequence: n})
		o.set(wire.HeaderNatsExpectedLastSubjectSequence, strconv.FormatUint(n, 10))
		o.set(wire.HeaderNatsExpectedLastSubjectSequenceSubject, filter)
	})
}

// expects notes the message's expectation. With two the server would not say which
// was wrong.
func (o *sendOptions) expects(e expectation) {
	if o.expect != nil {
		o.mistake(&OptionError{Option: e.option, Value: fmt.Sprint(e.sequence), Reason: "the message has an expectation already, " + o.expect.option + "; give one"})
		return
	}
	o.expect = &e
}
