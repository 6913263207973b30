package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nuid"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/payload"
)

// batchLimit is the most messages that a server takes as one batch.
const batchLimit = 1000

// Item is one message of a PublishToBatch. ItemOf makes it; it may be used again.
type Item struct {
	encode func(*outlet.Message, *payload.Format) (*expectation, error)
}

// ItemOf makes an item of a batch: v for the subject s. What is wrong with it is
// found by PublishToBatch. v must not be changed before that.
func ItemOf[T any](s Subject[T], v T, opts ...StoreOption) Item {
	return Item{func(m *outlet.Message, f *payload.Format) (*expectation, error) {
		o, err := storeOptions(opts)
		if err != nil {
			return nil, err
		}
		return o.expected(), encode(m, f, string(s), v, o)
	}}
}

// PublishToBatch stores all items in the stream st, one after the other and nothing
// between them, or none. Consumers see them when all are stored. The stream must be
// declared with StreamConfig.AtomicBatches; a batch has at most 1000 items, which may
// be of different types. Everything is checked before the first is sent.
//
// What an item expects is about the stream before the batch. ExpectLastSequence is for
// the first item only, and no item may expect something of a subject that an earlier
// one is published to.
//
// When the answer is lost, a batch in which at least one item has MsgID or AutoID is
// sent again until the outcome is known or ctx ends; of others it is
// ErrUnknownOutcome. A batch that is stored already is a duplicate, as a message is
// with PublishTo: its items have the same MsgIDs at the same places of a batch with as
// many items. An ID that is known otherwise is a *DuplicateError.
//
// In a stream on disk without replicas a batch takes some milliseconds, however
// small it is: use it for what belongs together, not to be fast.
//
// Errors: those of PublishTo, *BatchSizeError, *DuplicateError, *UnsupportedError.
// *ItemError says which item one is about.
func PublishToBatch(ctx context.Context, st *Stream, items ...Item) (*Ack, error) {
	if err := st.callable(ctx, "PublishToBatch"); err != nil {
		return nil, err
	}
	p, err := st.newBatch(ctx, items)
	if err != nil {
		st.bus.core.Counters.PublishFailed.Add(int64(len(items)))
		return nil, err
	}
	ctx, done := st.bus.core.Bound(ctx)
	defer done()
	ack, err := st.bus.core.Outlet.StoreBatch(ctx, p.name, p.messages)
	return p.result(ctx, ack, err)
}

// storeBatch is what one PublishToBatch stores.
type storeBatch struct {
	stream   *Stream
	name     string // unique
	messages []outlet.Message
	expect   []*expectation
}

// newBatch encodes and checks the items.
func (s *Stream) newBatch(ctx context.Context, items []Item) (*storeBatch, error) {
	if len(items) == 0 || len(items) > batchLimit {
		return nil, &BatchSizeError{Messages: len(items), Limit: batchLimit}
	}
	p := &storeBatch{stream: s, name: nuid.Next()}
	for i, item := range items {
		if item.encode == nil {
			return nil, &ItemError{i, badArgument("PublishToBatch", "item", "is empty; make it with ItemOf")}
		}
		var m outlet.Message
		expect, err := item.encode(&m, s.bus.format)
		if err == nil {
			err = s.admit(ctx, &m, expect)
		}
		if err != nil {
			return nil, &ItemError{i, err}
		}
		p.messages, p.expect = append(p.messages, m), append(p.expect, expect)
	}
	return p, p.check()
}

// check looks at what the items are to each other.
func (p *storeBatch) check() error {
	ids, subjects := make(map[string]bool), make(map[string]bool)
	for i := range p.messages {
		m := &p.messages[i]
		if m.ID != "" && ids[m.ID] {
			return &ItemError{i, &DuplicateError{Stream: p.stream.name, MsgID: m.ID}}
		}
		if e := p.expect[i]; e != nil {
			switch about := e.of(m.Subject); {
			case e.whole && i > 0:
				return &ItemError{i, &OptionError{Option: e.option, Value: fmt.Sprint(e.sequence), Reason: "only the first item of a batch may have it: the others follow that one"}}
			case subjects[about]:
				return &ItemError{i, &OptionError{Option: e.option, Value: fmt.Sprint(e.sequence), Reason: fmt.Sprintf("an earlier item is published to %q; give the expectation to that one", about)}}
			}
		}
		ids[m.ID], subjects[m.Subject] = true, true
	}
	return nil
}

// result makes what the outlet said of the batch into what its caller gets.
func (p *storeBatch) result(ctx context.Context, ack outlet.Ack, err error) (*Ack, error) {
	if refused, ok := errors.AsType[*jserr.Refusal](err); ok {
		switch refused.Number {
		case jserr.BatchDuplicate:
			ack, err = p.duplicate(ctx, err)
		case jserr.WrongLastSequence, jserr.WrongLastSequenceBusy:
			ack, err = p.conflict(ctx, err)
		case jserr.BatchIncomplete:
			err = p.tooLarge(ctx, err)
		}
	}
	if err != nil {
		return nil, p.err(err)
	}
	a, err := p.stream.result(ctx, &p.messages[0], nil, ack, nil)
	if err == nil {
		a.First = a.Sequence + 1 - uint64(len(p.messages))
	}
	return a, err
}

// err is err as one of ours.
func (p *storeBatch) err(err error) error {
	item, named := errors.AsType[*ItemError](err)
	if named && !errors.Is(err, outlet.ErrUnknown) {
		return item
	}
	return p.stream.publishError(err, p.messages[p.named()].ID)
}
