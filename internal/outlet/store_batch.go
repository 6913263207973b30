package outlet

import (
	"context"
	"slices"
	"strconv"

	"github.com/omnibus-go/bus/internal/serverversion"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// StoreBatch stores all messages of b in its stream or none of them, and waits for the
// acknowledgement until ctx ends. The acknowledgement is that of the last message. If one
// of the messages has an ID, the batch is sent again when the answer is lost, because the
// stream refuses a batch with an ID that it knows. For other batches the error is
// ErrUnknown. A refusal that is about one message is an *ItemError.
func (o *Outlet) StoreBatch(ctx context.Context, b *Batch) (Ack, error) {
	ack, err := o.storeTracedBatch(ctx, b.Name, b.Messages)
	if err != nil {
		refusal := batchRefusal{b, o}
		return refusal.resolve(ctx, err)
	}
	return ack, nil
}

// storeTracedBatch enters the gate, and makes a span for each message.
func (o *Outlet) storeTracedBatch(ctx context.Context, name string, ms []Message) (Ack, error) {
	if err := o.link.Enter(ctx); err != nil {
		return Ack{}, o.countBatch(ms, nil, err)
	}
	defer o.link.Leave()
	spans := make([]telemetry.Span, len(ms))
	for i := range ms {
		inSpan, span := o.tel.Send(ctx, o.operation(telemetry.OpStore, &ms[i]))
		o.inject(inSpan, &ms[i])
		spans[i] = span
	}
	ack, err := o.storeBatch(ctx, name, ms)
	return ack, o.countBatch(ms, spans, err)
}

// maxBatches is how many batches a bus sends at once. A server accepts 50 for each stream.
const maxBatches = 40

// unsentBatchError is the error of a batch whose last message was not sent. Such a batch is
// not stored.
type unsentBatchError struct{ err error }

func (e *unsentBatchError) Error() string { return e.err.Error() }
func (e *unsentBatchError) Unwrap() error { return e.err }

// countBatch counts the outcome of each message of a batch and ends the spans.
func (o *Outlet) countBatch(ms []Message, spans []telemetry.Span, err error) error {
	for i := range ms {
		_ = o.count(&ms[i], err)
	}
	for _, span := range spans {
		span.End(err)
	}
	return err
}

// storeBatch waits for a free place among maxBatches and sends the batch until it has an
// outcome or ctx ends.
func (o *Outlet) storeBatch(ctx context.Context, name string, ms []Message) (Ack, error) {
	if err := o.checkBatchIsNew(ctx, ms); err != nil {
		return Ack{}, err
	}
	select {
	case o.batches <- struct{}{}:
		defer func() { <-o.batches }()
	case <-ctx.Done():
		return Ack{}, ctx.Err()
	}
	var tried attempts
	whole := &ms[max(slices.IndexFunc(ms, func(m Message) bool { return m.ID != "" }), 0)] // stands for the batch
	for try := 1; ; try++ {
		if !o.link.Conn().IsConnected() { // nats.go might send only a part of what waits for the next connection
			if err := o.awaitNextAttempt(ctx); err != nil {
				return Ack{}, tried.wrapUnknown(err)
			}
		}
		tried.begin(o.link.Conn(), whole)
		ack, err := o.storeBatchOnce(ctx, name+"."+strconv.Itoa(try), whole.isRepeatable(), ms)
		again, err := tried.decide(whole, err)
		if !again {
			return ack, err
		}
		if err := o.awaitNextAttempt(ctx); err != nil {
			return Ack{}, tried.wrapUnknown(err)
		}
		if err := o.checkRemembered(ctx, whole, &tried); err != nil {
			return Ack{}, err
		}
	}
}

// storeBatchOnce sends all messages once. Each attempt needs a name of its own, because the
// server may have a part of an earlier attempt.
func (o *Outlet) storeBatchOnce(ctx context.Context, name string, repeatable bool, ms []Message) (Ack, error) {
	if repeatable {
		var end func()
		ctx, end = o.attemptContext(ctx)
		defer end()
	}
	if err := o.link.Server().Check(serverversion.PublishToBatch); err != nil {
		return Ack{}, &unsentBatchError{err} // a reconnect led to an older server
	}
	last := len(ms) - 1
	for i := range ms {
		ms[i].SetHeader(wire.HeaderNatsBatchID, name)
		ms[i].SetHeader(wire.HeaderNatsBatchSequence, strconv.Itoa(i+1))
	}
	ms[last].SetHeader(wire.HeaderNatsBatchCommit, "1")
	for i := range ms[:last] {
		if err := o.publish(&ms[i]); err != nil {
			return Ack{}, &unsentBatchError{err}
		}
	}
	reply, err := o.request(ctx, &ms[last])
	if err != nil {
		return Ack{}, err
	}
	return parseAck(reply)
}
