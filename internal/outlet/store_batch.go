package outlet

import (
	"context"
	"strconv"

	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// StoreBatch stores all messages in one stream or none of them, and waits for the
// acknowledgement until ctx ends. name is unique and of at most 50 bytes. Where one
// of the messages has an ID the batch is sent again when the answer is lost, for the
// stream refuses a batch with an ID that it knows; of others the result is ErrUnknown.
func (o *Outlet) StoreBatch(ctx context.Context, name string, ms []Message) (Ack, error) {
	if err := o.link.Enter(); err != nil {
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

// mostBatches is how many batches of a bus are under way at once. A server takes 50
// for a stream.
const maxBatches = 40

// unsentError is an error after which a batch has no end and so is not stored.
type unsentBatchError struct{ err error }

func (e *unsentBatchError) Error() string { return e.err.Error() }
func (e *unsentBatchError) Unwrap() error { return e.err }

func (o *Outlet) countBatch(ms []Message, spans []telemetry.Span, err error) error {
	for i := range ms {
		_ = o.count(&ms[i], err)
	}
	for _, span := range spans {
		span.End(err)
	}
	return err
}

func (o *Outlet) storeBatch(ctx context.Context, name string, ms []Message) (Ack, error) {
	select {
	case o.batches <- struct{}{}:
		defer func() { <-o.batches }()
	case <-ctx.Done():
		return Ack{}, ctx.Err()
	}
	var tried attempts
	whole := &Message{} // for its ID
	for i := 0; i < len(ms) && whole.ID == ""; i++ {
		whole.ID = ms[i].ID
	}
	for try := 1; ; try++ {
		if !o.link.Conn().IsConnected() { // what waits for the next connection might be cut in two
			if err := o.awaitNextAttempt(ctx); err != nil {
				return Ack{}, tried.wrapUnknown(err)
			}
		}
		ack, err := o.storeBatchOnce(ctx, name+"."+strconv.Itoa(try), whole.isRepeatable(), ms)
		again, err := tried.decide(whole, err)
		if !again {
			return ack, err
		}
		if err := o.awaitNextAttempt(ctx); err != nil {
			return Ack{}, tried.wrapUnknown(err)
		}
	}
}

// tryBatch sends all messages once, under a name of its own: of an earlier try the
// server may have a part.
func (o *Outlet) storeBatchOnce(ctx context.Context, name string, repeatable bool, ms []Message) (Ack, error) {
	if repeatable {
		var end func()
		ctx, end = o.attemptContext(ctx)
		defer end()
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
