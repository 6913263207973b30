package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

// duplicate finds out what the refusal of a known ID means: the batch itself, which an
// earlier try or call has stored, or another message.
func (p *storeBatch) duplicate(ctx context.Context, err error) (outlet.Ack, error) {
	for i := range p.messages {
		ack, known, findErr := p.find(ctx, i)
		switch {
		case findErr != nil:
			return outlet.Ack{}, err
		case known != nil:
			return outlet.Ack{}, inDoubt(err, known)
		case ack.Sequence > 0:
			return ack, nil
		}
	}
	return outlet.Ack{}, err
}

// conflict finds out what the refusal of an expectation means. The server looks at one
// item after the other, so the IDs of later ones do not go before it; here they do.
func (p *storeBatch) conflict(ctx context.Context, err error) (outlet.Ack, error) {
	if ack, _, findErr := p.find(ctx, p.named()); findErr == nil && ack.Sequence > 0 {
		return ack, nil
	}
	i := p.unmet(ctx)
	if i < 0 {
		return outlet.Ack{}, err // the program has set the header by itself
	}
	e := p.expect[i]
	filter := e.of(p.messages[i].Subject)
	conflict := &ItemError{i, p.stream.conflictOf(ctx, filter, e.sequence, err)}
	if !errors.Is(err, outlet.ErrUnknown) {
		return outlet.Ack{}, conflict
	}
	next, _, lookErr := p.stored(ctx, outlet.Query{Sequence: e.sequence + 1, Next: filter})
	switch {
	case lookErr != nil:
		return outlet.Ack{}, inDoubt(err, conflict)
	case strings.HasPrefix(next.batch, p.name+"."):
		return outlet.Ack{Stream: p.stream.name, Sequence: next.sequence + uint64(len(p.messages)-next.number), Duplicate: true}, nil
	}
	return outlet.Ack{}, conflict
}

// inDoubt is known, unless err says that an earlier try may have stored the batch.
func inDoubt(err, known error) error {
	if errors.Is(err, outlet.ErrUnknown) {
		return fmt.Errorf("%w: %w", outlet.ErrUnknown, known)
	}
	return known
}

// find looks for the batch by the ID of item i, if it has one. ack has a sequence where
// the batch is stored; known is there where the ID is another message's.
func (p *storeBatch) find(ctx context.Context, i int) (ack outlet.Ack, known *ItemError, err error) {
	m := &p.messages[i]
	if m.ID == "" {
		return outlet.Ack{}, nil, nil
	}
	ack, found, err := p.stream.bus.core.Outlet.Find(ctx, m.Subject, m.ID)
	if err != nil || !found {
		return outlet.Ack{}, nil, err
	}
	last := ack.Sequence + uint64(len(p.messages)-1-i)
	switch is, err := p.isAt(ctx, i, ack.Sequence, last); {
	case err != nil:
		return outlet.Ack{}, nil, err
	case !is:
		return outlet.Ack{}, &ItemError{i, &DuplicateError{Stream: p.stream.name, MsgID: m.ID, Sequence: ack.Sequence}}, nil
	}
	ack.Sequence = last
	return ack, nil, nil
}

// named returns the first item that has an ID, or 0. All of a batch are stored, or none.
func (p *storeBatch) named() int {
	return max(slices.IndexFunc(p.messages, func(m outlet.Message) bool { return m.ID != "" }), 0)
}

// isAt reports whether the messages at two sequences are item i and the last one of
// the same batch, with as many items as this one has.
func (p *storeBatch) isAt(ctx context.Context, i int, sequence, last uint64) (bool, error) {
	one, _, err := p.stored(ctx, outlet.Query{Sequence: sequence})
	if err != nil {
		return false, err
	}
	end, ends, err := p.stored(ctx, outlet.Query{Sequence: last})
	return one.batch != "" && one.batch == end.batch && one.number == i+1 && end.number == len(p.messages) && ends, err
}

// part is which part of a batch a stored message was.
type part struct {
	sequence uint64
	batch    string // empty: of none
	number   int    // from 1
}

func (p *storeBatch) stored(ctx context.Context, q outlet.Query) (is part, ends bool, err error) {
	m, _, err := p.stream.bus.core.Outlet.LookUp(ctx, p.stream.name, q)
	if err != nil {
		return part{}, false, err
	}
	number, _ := strconv.Atoi(wire.Get(m.Header, wire.HeaderNatsBatchSequence)) // 0 where there is none
	return part{m.Sequence, wire.Get(m.Header, wire.HeaderNatsBatchID), number}, wire.Get(m.Header, wire.HeaderNatsBatchCommit) != "", nil
}

// unmet returns the first item whose expectation the stream does not meet now, or the
// first that has one where it meets all; -1 for none. The server does not say which
// it refused.
func (p *storeBatch) unmet(ctx context.Context) int {
	first := -1
	for i, e := range p.expect {
		if e == nil {
			continue
		}
		if last, err := p.stream.lastOf(ctx, e.of(p.messages[i].Subject)); err == nil && last != e.sequence {
			return i
		}
		if first < 0 {
			first = i
		}
	}
	return first
}

// tooLarge says which item the stream does not take for its size, where that is why a
// part of the batch was missing in the end.
func (p *storeBatch) tooLarge(ctx context.Context, err error) error {
	st, lookErr := p.stream.bus.core.JetStream.Stream(ctx, p.stream.name)
	if lookErr != nil || st.CachedInfo().Config.MaxMsgSize <= 0 {
		return err
	}
	for i := range p.messages {
		if large := p.messages[i].CheckSize(int(st.CachedInfo().Config.MaxMsgSize)); large != nil {
			return &ItemError{i, payloadError(large)}
		}
	}
	return err
}
