package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/access"
	"github.com/omnibus-go/bus/internal/plural"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// BatchHandler handles several messages at once. They are in the order of the stream. If it
// returns nil, all are done. A *BatchError has the error of each message that failed. With any
// other error, and with a panic, each of them failed. With keys, see ConsumeBatch. ctx ends like
// that of a Handler.
type BatchHandler[T any] func(ctx context.Context, ms []*Msg[T]) error

// ConsumeBatch is Consume for a handler of several messages at once, for example to store
// them in one transaction of a database. A batch has up to BatchSize messages, or fewer
// after BatchWait. With Concurrency(n) up to n batches are handled at once.
//
// Each message has its own outcome: see BatchHandler and BatchError. A message that fails
// is tried again as Retry says, in a later batch. Its Attempt counts its own failures. A
// message that cannot be decoded or is invalid becomes a dead letter and is in no batch.
//
// Middleware is called for each message of a batch, one inside the other: the next of a
// message calls the middleware of the following message, and the innermost next calls the
// batch handler. So each next returns after the batch was handled, with the outcome of its
// own message. If a middleware does not call next, its message is not in the batch. A
// middleware must not wait for another message of its batch, for example for a lock that
// the other one holds: the batch would never end. middleware.Deduplicate postpones the copy
// of a message instead. The handler does not see the contexts that middleware makes. It
// sees what middleware changes in a message. HandlerTimeout limits the handling of the
// batch.
//
// With KeyBySubject, KeyByToken, KeyByHeader or KeyBy, a batch may have several messages of a key,
// in order, and batches that are handled at the same time have no key in common. The messages of a
// key succeed in that order. So when one of them fails, those of its key behind it in the batch come
// again after it, whatever the handler says of them, and this is no attempt. This is so too when
// the failed one becomes a dead letter, and if it cannot be decoded, so that the handler does not
// see it. The handler should skip those behind a failed one:
//
//	var failed bus.BatchError
//	stop := make(map[string]bool)
//	for i, m := range ms {
//		if stop[m.Subject] { // with KeyBySubject
//			continue
//		}
//		err := insert(m)
//		failed.Add(i, err)
//		stop[m.Subject] = err != nil
//	}
//	return failed.Err()
//
// With an error for the whole batch, the first message of each key has failed. A message that is
// tried again is the only one of its key in its batch, and does not wait for a whole batch.
// Several processes that share the durable keep the order together. The owner handles the
// batches, and another process takes over when it stops.
//
// The errors are those of Consume.
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

// batch is the handler of a ConsumeBatch.
type batch struct {
	handle  func(ctx context.Context, ms []any) error
	timeout time.Duration
}

// limit implements batchHandler.
func (b *batch) limit(d time.Duration) { b.timeout = d }

// batchRun makes one attempt at each message of a batch. All of it runs on the goroutine
// of one worker, unless a middleware calls next on another one.
//
// A message is
//
//	waiting → entered → joined → returned    its middleware called next
//	waiting → entered → returned             its middleware did not
type batchRun struct {
	handler  *batch
	consumer *Consumer
	outcomes []settle.Outcome
	handled  chan struct{}  // closed when the handler has returned
	running  sync.WaitGroup // messages that are entered and not returned

	mu      sync.Mutex
	waiting []batchSlot  // in order
	joined  []*batchSlot // the messages for the handler
	called  bool         // the handler takes no more of them
}

// batchSlot is one message of a batch. The context of its middleware has it.
type batchSlot struct {
	run      *batchRun
	index    int
	delivery wire.Delivery

	message  any   // a *Msg, once it has joined; guarded by run.mu
	returned bool  // guarded by run.mu
	err      error // its outcome; valid once the batch was handled
}

// batchKey is the context key of a message in a batch.
type batchKey struct{}

func init() {
	access.InBatch = func(ctx context.Context) bool { return ctx.Value(batchKey{}) != nil }
}

// errNotInBatch is the outcome of a message that no handler saw, although its middleware
// called next: too late, after it had returned. That was no attempt.
var errNotInBatch = Postpone(0, errors.New("bus: the batch of this message was handled without it"))

// run makes one attempt at each message of a batch of c and sets as many outcomes. A
// worker of the intake calls it. If the handler ends the goroutine, the outcomes are set
// as well.
func (b *batch) run(c *Consumer, ds []wire.Delivery, outcomes []settle.Outcome) {
	r := &batchRun{handler: b, consumer: c, outcomes: outcomes, waiting: make([]batchSlot, len(ds)), handled: make(chan struct{})}
	for i, d := range ds {
		r.waiting[i] = batchSlot{run: r, index: i, delivery: d}
		outcomes[i] = c.outcome(errNotInBatch)
	}
	r.enter()
	r.running.Wait()
}

// enter calls the middleware of the messages that still wait, and then the handler. The
// middleware of each message calls it again, by its next.
func (r *batchRun) enter() {
	for s := r.first(); s != nil; s = r.first() {
		s.attempt()
	}
	r.handle()
}

// first takes the first of the waiting messages, nil if there are none.
func (r *batchRun) first() *batchSlot {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		return nil
	}
	s := &r.waiting[0]
	r.waiting = r.waiting[1:]
	r.running.Add(1)
	return s
}

// attempt calls the middleware of a message. It sets the outcome also if that panics or
// ends the goroutine.
func (s *batchSlot) attempt() {
	defer s.run.running.Done()
	err := errExited
	defer func() {
		s.run.mu.Lock()
		defer s.run.mu.Unlock()
		s.returned = true
		s.run.outcomes[s.index] = s.run.consumer.outcome(err)
	}()
	c := s.run.consumer
	err = c.handle(context.WithValue(c.call.ctx, batchKey{}, s), s.delivery)
}

// joinBatch has m handled with the other messages of its batch, and returns the outcome
// of m. It is what the next of the innermost middleware calls. Called again for the same
// message it returns the same.
func joinBatch(ctx context.Context, m any) error {
	s, ok := ctx.Value(batchKey{}).(*batchSlot)
	if !ok {
		return errors.New("bus: the middleware called next with a context that is not derived from its own")
	}
	if !s.join(m) {
		return errNotInBatch
	}
	s.run.enter()
	return s.err
}

// join puts a message into the batch. It returns false if it is too late for that.
func (s *batchSlot) join(m any) bool {
	r := s.run
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.message == nil && !s.returned && !r.called {
		s.message = m
		r.joined = append(r.joined, s)
	}
	return s.message != nil
}

// handle calls the handler with the messages that have joined, and sets their outcomes.
// Only the first call does so. Others wait for that one.
func (r *batchRun) handle() {
	r.mu.Lock()
	called, joined := r.called, r.joined
	r.called = true
	r.mu.Unlock()
	if called {
		<-r.handled
		return
	}
	defer close(r.handled)
	if len(joined) == 0 {
		return
	}
	ms, errs := make([]any, len(joined)), make([]error, len(joined))
	for i, s := range joined {
		ms[i] = s.message
	}
	defer func() { // also if the handler ends the goroutine
		for i, s := range joined {
			s.err = errs[i]
		}
	}()
	r.handler.call(r.consumer.call.ctx, ms, errs)
}

// call calls the handler with ms, and sets in errs the outcome of each message.
func (b *batch) call(ctx context.Context, ms []any, errs []error) {
	if b.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.timeout)
		defer cancel()
	}
	err := errExited
	defer func() { b.share(err, errs) }() // also if the handler ends the goroutine
	err = guard(ctx, func(ctx context.Context, _ *RawMsg) error { return b.handle(ctx, ms) }, nil)
}

// share sets in errs what err means for each message of a batch.
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

// BatchError is returned by a BatchHandler. It has the error of each message that failed. The
// other messages are done. The zero value has none:
//
//	var failed bus.BatchError
//	for i, m := range ms {
//		failed.Add(i, insert(m)) // nil is no failure
//	}
//	return failed.Err()
//
// An error in it means the same as from a Handler, also one of Permanent, RetryAfter and
// Postpone. Not safe for concurrent use.
type BatchError struct {
	Failed map[int]error // by the index of the message; an index outside the batch fails all messages
}

// Add records that the message with index i failed with err. It does nothing if err is nil.
func (e *BatchError) Add(i int, err error) {
	if err == nil {
		return
	}
	if e.Failed == nil {
		e.Failed = make(map[int]error)
	}
	e.Failed[i] = err
}

// Err returns e, or nil if no message failed.
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
	return fmt.Sprintf("bus: %s of a batch failed: %s", plural.Of(len(texts), "message", "messages"), strings.Join(texts, "; "))
}

// within reports whether all indexes of e are of a batch of n messages.
func (e *BatchError) within(n int) bool {
	for i := range e.Failed {
		if i < 0 || i >= n {
			return false
		}
	}
	return true
}
