package outlet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
)

// MaxBatchSize is how many messages a server accepts as one batch.
const MaxBatchSize = 1000

// Batch is the messages of one StoreBatch.
type Batch struct {
	Name     string // unique, at most 50 bytes
	Stream   string
	Messages []Message
	Expect   []*Expectation // of each message; nil elements, or a nil slice, for none
}

// ID returns the ID of the first message that has one, or "". If one message of a batch is
// stored, all are.
func (b *Batch) ID() string { return b.Messages[b.firstWithID()].ID }

// firstWithID returns the index of the first message with an ID, or 0.
func (b *Batch) firstWithID() int {
	return max(slices.IndexFunc(b.Messages, func(m Message) bool { return m.ID != "" }), 0)
}

// ItemError says which message of a batch an error is about.
type ItemError struct {
	Index int // from 0
	Err   error
}

func (e *ItemError) Error() string { return fmt.Sprintf("item %d: %v", e.Index, e.Err) }

// Unwrap returns what is wrong with the message.
func (e *ItemError) Unwrap() error { return e.Err }

// batchRefusal finds out what a server's refusal of a batch means: whether the batch is
// stored already, and which message is refused. StoreBatch makes one for each refusal. It
// belongs to that call.
type batchRefusal struct {
	*Batch
	outlet *Outlet
}

// resolve returns the acknowledgement of the last message if the batch is stored. Else it
// returns an *ItemError if it knows the message that is refused, or err. Together with
// ErrUnknown if an earlier attempt may have stored the batch.
func (r *batchRefusal) resolve(ctx context.Context, err error) (Ack, error) {
	refused, ok := errors.AsType[*jserr.Refusal](err)
	if !ok {
		return Ack{}, err
	}
	switch refused.Number {
	case jserr.BatchDuplicate:
		return r.resolveDuplicate(ctx, err)
	case jserr.WrongLastSequence, jserr.WrongLastSequenceBusy:
		return r.resolveConflict(ctx, err)
	case jserr.BatchIncomplete:
		return Ack{}, r.findTooLarge(ctx, err)
	}
	return Ack{}, err
}

// resolveDuplicate resolves the refusal of a known ID: the batch itself is stored, by an
// earlier attempt or call, or another message has the ID.
func (r *batchRefusal) resolveDuplicate(ctx context.Context, err error) (Ack, error) {
	for i := range r.Messages {
		ack, known, findErr := r.find(ctx, i)
		switch {
		case findErr != nil:
			return Ack{}, err
		case known != nil:
			return Ack{}, withDoubt(err, known)
		case ack.Sequence > 0:
			return ack, nil
		}
	}
	return Ack{}, err
}

// resolveConflict resolves the refusal of an expectation. The server checks one message
// after the other, so a known ID of a later message does not come first there. Here it
// does.
func (r *batchRefusal) resolveConflict(ctx context.Context, err error) (Ack, error) {
	if ack, _, findErr := r.find(ctx, r.firstWithID()); findErr == nil && ack.Sequence > 0 {
		return ack, nil
	}
	i := r.findUnmet(ctx)
	if i < 0 {
		return Ack{}, err // the program has set the header itself
	}
	conflict := &ItemError{i, r.outlet.conflict(ctx, r.Stream, &r.Messages[i], r.Expect[i], err)}
	if !errors.Is(err, ErrUnknown) {
		return Ack{}, conflict
	}
	next, lookErr := r.lookUp(ctx, Query{Sequence: r.Expect[i].Sequence + 1, Next: r.Expect[i].Of(r.Messages[i].Subject)})
	switch {
	case lookErr != nil:
		return Ack{}, withDoubt(err, conflict)
	case strings.HasPrefix(next.batch, r.Name+"."):
		return Ack{Stream: r.Stream, Sequence: next.sequence + uint64(len(r.Messages)-next.number), Duplicate: true}, nil
	}
	return Ack{}, conflict
}

// withDoubt returns known, together with ErrUnknown if err has that: then an earlier
// attempt may have stored the batch.
func withDoubt(err, known error) error {
	if errors.Is(err, ErrUnknown) {
		return fmt.Errorf("%w: %w", ErrUnknown, known)
	}
	return known
}

// find looks for the batch by the ID of message i, if that has one. If the batch is stored,
// ack is that of its last message. If another message has the ID, known says so.
func (r *batchRefusal) find(ctx context.Context, i int) (ack Ack, known *ItemError, err error) {
	m := &r.Messages[i]
	if m.ID == "" {
		return Ack{}, nil, nil
	}
	ack, found, err := r.outlet.Find(ctx, r.Stream, m.Subject, m.ID)
	if err != nil || !found {
		return Ack{}, nil, err
	}
	last := ack.Sequence + uint64(len(r.Messages)-1-i)
	switch same, err := r.isStoredAt(ctx, i, ack.Sequence, last); {
	case err != nil:
		return Ack{}, nil, err
	case !same:
		return Ack{}, &ItemError{i, &ConflictError{MsgID: m.ID, Actual: ack.Sequence}}, nil
	}
	ack.Sequence = last
	return ack, nil, nil
}

// isStoredAt reports whether the messages at two sequences are message i and the last one
// of the same batch, which has as many messages as this one.
func (r *batchRefusal) isStoredAt(ctx context.Context, i int, sequence, last uint64) (bool, error) {
	one, err := r.lookUp(ctx, Query{Sequence: sequence})
	if err != nil {
		return false, err
	}
	end, err := r.lookUp(ctx, Query{Sequence: last})
	return one.batch != "" && one.batch == end.batch && one.number == i+1 && end.number == len(r.Messages) && end.isLast, err
}

// batchPosition is the place of a stored message in its batch.
type batchPosition struct {
	sequence uint64
	batch    string // empty if the message was stored without a batch
	number   int    // from 1
	isLast   bool
}

func (r *batchRefusal) lookUp(ctx context.Context, q Query) (batchPosition, error) {
	m, _, err := r.outlet.LookUp(ctx, r.Stream, q)
	if err != nil {
		return batchPosition{}, err
	}
	number, _ := strconv.Atoi(wire.Get(m.Header, wire.HeaderNatsBatchSequence)) // 0 without the header
	return batchPosition{m.Sequence, wire.Get(m.Header, wire.HeaderNatsBatchID), number, wire.Get(m.Header, wire.HeaderNatsBatchCommit) != ""}, nil
}

// findUnmet returns the first message whose expectation is not met now. If all are met, it
// returns the first message with an expectation, or -1 if there is none. The server does
// not say which one it refused.
func (r *batchRefusal) findUnmet(ctx context.Context) int {
	first := -1
	for i, e := range r.Expect {
		if e == nil {
			continue
		}
		if last, err := r.outlet.lastSequence(ctx, r.Stream, e.Of(r.Messages[i].Subject)); err == nil && last != e.Sequence {
			return i
		}
		if first < 0 {
			first = i
		}
	}
	return first
}

// findTooLarge returns an *ItemError for the message that is larger than the stream
// accepts. If there is none, it returns err, the refusal of an incomplete batch.
func (r *batchRefusal) findTooLarge(ctx context.Context, err error) error {
	limit, lookErr := r.outlet.maxMessageSize(ctx, r.Stream)
	if lookErr != nil || limit <= 0 {
		return err
	}
	for i := range r.Messages {
		if large := r.Messages[i].CheckSize(limit); large != nil {
			return &ItemError{i, large}
		}
	}
	return err
}
