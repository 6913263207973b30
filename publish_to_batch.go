package bus

import (
	"context"
	"fmt"

	"github.com/nats-io/nuid"

	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/serverversion"
)

// Item is one message of a PublishToBatch. ItemOf makes it. It may be used more than once.
type Item struct {
	encode func(*outlet.Message, *payload.Format) (*outlet.Expectation, error)
}

// ItemOf returns an item of a batch: v for the subject s. PublishToBatch reports its errors. v
// must not be changed before that.
func ItemOf[T any](s Subject[T], v T, opts ...StoreOption) Item {
	return Item{func(m *outlet.Message, f *payload.Format) (*outlet.Expectation, error) {
		o, err := storeOptions(opts)
		if err != nil {
			return nil, err
		}
		return o.expected(), encode(m, f, string(s), v, o)
	}}
}

// PublishToBatch stores all items in the stream st, one directly after the other, or none of
// them. Consumers see them when all are stored. The stream must be declared with
// StreamConfig.AtomicBatches. A batch has 1 to 1000 items, which may be of different types.
// All items are checked before the first one is sent.
//
// The expectations of items are about the stream before the batch. Only the first item may
// have ExpectLastSequence. No item may have an expectation about a subject to which an
// earlier item is published.
//
// If at least one item has a MsgID or AutoID, the batch is sent again when the answer is
// lost, until the outcome is known or ctx ends. For other batches a lost answer is
// ErrUnknownOutcome. A batch that is stored already is a duplicate: the stream has a batch
// with as many items and the same MsgIDs at the same places. If the stream knows a MsgID from
// another message, the error is a *ConflictError.
//
// In a stream on disk without replicas each batch takes some milliseconds. Use batches for
// messages that belong together, not for speed.
//
// Errors: those of PublishTo; *UnsupportedError also for a server before 2.12. An *ItemError
// says which item the error is about.
func PublishToBatch(ctx context.Context, st *Stream, items ...Item) (*Ack, error) {
	if err := st.storable(ctx, "PublishToBatch"); err != nil {
		return nil, err
	}
	var batch *outlet.Batch
	err := st.bus.checkServer(serverversion.PublishToBatch)
	if err == nil {
		batch, err = st.newBatch(ctx, items)
	}
	if err != nil {
		st.bus.core.Counters.PublishFailed.Add(int64(len(items)))
		return nil, err
	}
	ctx, done := st.bus.core.Bound(ctx)
	defer done()
	stored, err := st.bus.core.Outlet.StoreBatch(ctx, batch)
	if lost := st.checkKept("PublishToBatch", 0, err); lost != nil {
		return nil, lost
	}
	if err != nil {
		return nil, st.publishError(err, batch.ID())
	}
	ack, err := st.ack(stored)
	if err == nil {
		ack.First = ack.Sequence + 1 - uint64(len(items))
	}
	return ack, err
}

// newBatch encodes and checks the items.
func (s *Stream) newBatch(ctx context.Context, items []Item) (*outlet.Batch, error) {
	switch {
	case len(items) == 0:
		return nil, badArgument("PublishToBatch", "the batch", fmt.Sprintf("is empty; give it 1 to %d items", outlet.MaxBatchSize))
	case len(items) > outlet.MaxBatchSize:
		return nil, badArgument("PublishToBatch", "the batch", fmt.Sprintf("has %d items, the limit is %d; split it; each part is then stored by itself", len(items), outlet.MaxBatchSize))
	}
	b := &outlet.Batch{Name: nuid.Next(), Stream: s.name}
	for i, item := range items {
		if item.encode == nil {
			return nil, &ItemError{i, badArgument("PublishToBatch", "item", "is empty; make it with ItemOf")}
		}
		m := outlet.Message{Stream: s.name}
		expect, err := item.encode(&m, s.bus.format)
		if err == nil {
			err = s.admit(ctx, &m, expect)
		}
		if err != nil {
			return nil, &ItemError{i, err}
		}
		b.Messages, b.Expect = append(b.Messages, m), append(b.Expect, expect)
	}
	return b, checkBatch(b)
}

// checkBatch looks for items of b that exclude each other.
func checkBatch(b *outlet.Batch) error {
	ids, subjects := make(map[string]bool), make(map[string]bool)
	for i := range b.Messages {
		m := &b.Messages[i]
		if m.ID != "" && ids[m.ID] {
			return &ItemError{i, &ConflictError{Stream: b.Stream, MsgID: m.ID}}
		}
		if e := b.Expect[i]; e != nil {
			switch about := e.Of(m.Subject); {
			case e.Whole && i > 0:
				return &ItemError{i, expectationError(e, "only the first item of a batch may have it: the others follow that one")}
			case subjects[about]:
				return &ItemError{i, expectationError(e, fmt.Sprintf("an earlier item is published to %q; give the expectation to that one", about))}
			}
		}
		ids[m.ID], subjects[m.Subject] = true, true
	}
	return nil
}
