package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// BatchHandler handles several messages at once, which are in stream order apart from
// those that come again. Nil means that all are done. A *BatchError says of each by
// itself how it failed. Any other error, and a panic, counts as a failure of each of
// them. ctx ends as that of a Handler.
type BatchHandler[T any] func(ctx context.Context, ms []*Msg[T]) error

// The defaults of ConsumeBatch.
const (
	defaultBatchSize = 100
	defaultBatchWait = 100 * time.Millisecond
	largestBatch     = 10_000
)

// BatchSize is how many messages ConsumeBatch handles at once at most, 1 to 10,000;
// the default is 100. Fewer come when their payloads are large: about 8 MiB are here
// at a time.
func BatchSize(n int) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		if n < 1 || n > largestBatch {
			o.fail("BatchSize", n, fmt.Sprintf("must lie between 1 and %d", largestBatch))
		}
		o.batch.size = n
	})
}

// BatchWait is how long ConsumeBatch waits for more messages when there are fewer than
// BatchSize; the default is 100 ms, 0 means not at all. At most an hour.
func BatchWait(d time.Duration) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		if d < 0 || d > time.Hour {
			o.fail("BatchWait", d, "must lie between 0 and 1h")
		}
		o.batch.wait = &d
	})
}

// ConsumeBatch is Consume for a handler of several messages at once, as for one
// transaction of a database. Up to BatchSize of them make a batch, fewer after
// BatchWait. With Concurrency(n) up to n batches are handled at once.
//
// Each message is settled by itself: see BatchHandler, BatchError. One that fails is
// tried again as Retry says, in a later batch; its Attempt counts its own failures.
// One that cannot be decoded or is invalid becomes a dead letter and is in no batch.
//
// Middleware sees each message by itself, all of a batch at the same time, from before
// the batch is handled until after: its next returns with what became of the message.
// Where it does not call next, the message is not in the batch. What it puts into the
// context does not reach the batch's handler; what it changes in the message does.
// When one waits there for another of its batch to return, as a copy does in
// middleware.Deduplicate, those that have come through are handled after a second or
// two without it; what comes through later is handled after them.
// HandlerTimeout holds for the handling of the batch.
//
// Order by key is not for batches: options about keys are an *OptionError. Other
// errors are those of Consume.
func ConsumeBatch[T any](ctx context.Context, st *Stream, durable string, s Subject[T], h BatchHandler[T], opts ...ConsumeOption) (*Consumer, error) {
	if h == nil {
		return nil, badArgument("ConsumeBatch", "handler", "is nil")
	}
	b := &batch{handle: func(ctx context.Context, ms []any) error {
		typed := make([]*Msg[T], len(ms))
		for i := range ms {
			typed[i] = ms[i].(*Msg[T])
		}
		return h(ctx, typed)
	}}
	join := typed(func(ctx context.Context, m *Msg[T]) error { return joinBatch(ctx, m) })
	return st.consume(ctx, durable, consumption{call: "ConsumeBatch", filters: []string{string(s)}, make: join, of: reflect.TypeFor[T](), batch: b}, opts)
}

// batchOptions is what ConsumeBatch and its options set.
type batchOptions struct {
	handler *batch         // nil for handlers of one message
	size    int            // 0 where it was not given
	wait    *time.Duration // nil where it was not given
}

// batch is how a consumer handles batches.
type batch struct {
	handle  func(ctx context.Context, ms []any) error
	timeout time.Duration
}

// completeBatch checks the options about batches and fills in the defaults, when all
// options are known.
func (o *consumeOptions) completeBatch(call string) {
	b := &o.batch
	if b.handler == nil {
		if b.size != 0 || b.wait != nil {
			o.fail(call, "BatchSize or BatchWait", "is for ConsumeBatch only")
		}
		return
	}
	if b.size == 0 {
		b.size = defaultBatchSize
	}
	if b.wait == nil {
		b.wait = new(defaultBatchWait)
	}
	if o.key.make != nil {
		o.fail(call, "KeyBy…", "batches keep no order by key; use Consume, or leave the key out")
	}
	if o.atOnce() > maxConcurrency {
		o.fail("BatchSize", b.size, fmt.Sprintf("times the Concurrency of %d is more than %d messages", o.concurrency, maxConcurrency))
	}
	b.handler.timeout, o.timeout = o.timeout, 0 // of the whole, not of each message
}

// atOnce is how many messages are handled at once.
func (o *consumeOptions) atOnce() int { return o.concurrency * max(o.batch.size, 1) }

// gather makes the intake of c gather batches, if o says so.
func (c *Consumer) gather(o *consumeOptions) {
	if o.batch.handler == nil {
		return
	}
	run := o.batch.handler.runner(c)
	c.intake.Batch = intake.Batch{Size: o.batch.size, Wait: *o.batch.wait, Run: run}
	c.intake.Run = func(d wire.Delivery) settle.Outcome {
		outcome := []settle.Outcome{{}}
		run([]wire.Delivery{d}, outcome)
		return outcome[0]
	}
}

// call handles ms, and notes in errs what became of each.
func (b *batch) call(ctx context.Context, ms []any, errs []error) {
	if b.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.timeout)
		defer cancel()
	}
	var err error
	defer func() { b.share(err, errs) }() // also where the handler ends the goroutine
	b.guard(ctx, ms, &err)
}

// share says in errs what err means for each message of a batch.
func (b *batch) share(err error, errs []error) {
	switch e, each := errors.AsType[*BatchError](err); {
	case each && e.within(len(errs)):
		for i, err := range e.Failed {
			errs[i] = err
		}
	case each:
		fill(errs, badArgument("BatchError", "Failed", fmt.Sprintf("names a message that the batch of %d does not have: %v", len(errs), slices.Sorted(maps.Keys(e.Failed)))))
	default:
		fill(errs, err)
	}
}

func fill(errs []error, err error) {
	for i := range errs {
		errs[i] = err
	}
}

// guard calls the handler as the function guard does.
func (b *batch) guard(ctx context.Context, ms []any, failed *error) {
	returned := false
	defer catch(&returned, failed)
	*failed = sound(b.handle(ctx, ms))
	returned = true
}

// BatchError is what a BatchHandler returns to say of each message by itself how it
// failed. Those it does not name are done. The zero value names none:
//
//	var failed bus.BatchError
//	for i, m := range ms {
//		failed.Add(i, insert(m)) // nil is no failure
//	}
//	return failed.Err()
//
// An error in it means what it would mean from a Handler, also one of Permanent and
// RetryAfter. Not safe for concurrent use.
type BatchError struct {
	Failed map[int]error // by the index of the message in the batch; another index fails them all
}

// Add notes that the message with index i failed with err, unless err is nil.
func (e *BatchError) Add(i int, err error) {
	if err == nil {
		return
	}
	if e.Failed == nil {
		e.Failed = make(map[int]error)
	}
	e.Failed[i] = err
}

// Err returns e, or nil when it names no message.
func (e *BatchError) Err() error {
	if e == nil || len(e.Failed) == 0 {
		return nil
	}
	return e
}

func (e *BatchError) Error() string {
	texts := make([]string, 0, len(e.Failed))
	for _, i := range slices.Sorted(maps.Keys(e.Failed)) {
		texts = append(texts, fmt.Sprintf("message %d: %v", i, e.Failed[i]))
	}
	return fmt.Sprintf("bus: %d messages of a batch failed: %s", len(texts), strings.Join(texts, "; "))
}

// within reports whether e is about a batch of n messages.
func (e *BatchError) within(n int) bool {
	for i := range e.Failed {
		if i < 0 || i >= n {
			return false
		}
	}
	return true
}
