package streamdef

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Removal is what a change of a stream deletes of the messages that are stored now.
type Removal struct {
	Messages uint64 // at least
	Bytes    uint64 // of them, at least; 0 if unknown
	More     bool   // it may be more; false: Messages is exact
}

const (
	maxListedSubjects = 100_000 // the server is not asked to list more subjects of a stream
	maxListedDeleted  = 100_000 // the same for sequences of deleted messages
)

// estimateRemoval estimates what the server deletes if the stream gets the configuration
// want. It explains an error or a plan, so it returns no error itself: what it cannot find
// out is unknown (More).
func estimateRemoval(ctx context.Context, st jetstream.Stream, want *jetstream.StreamConfig) Removal {
	info := st.CachedInfo()
	have, state := &info.Config, &info.State
	if state.Msgs == 0 {
		return Removal{}
	}
	all := Removal{Messages: state.Msgs, Bytes: state.Bytes}
	r := Removal{}
	if have.Retention != want.Retention && want.Retention == jetstream.InterestPolicy {
		if state.Consumers == 0 {
			return all
		}
		r.More = true // what all consumers have acknowledged
	}
	r = r.overlapping(byCount(state, want))
	if lowered(have.MaxAge, want.MaxAge) {
		r = r.overlapping(byAge(ctx, st, time.Now().Add(-want.MaxAge)))
	}
	if lowered(have.MaxMsgsPerSubject, want.MaxMsgsPerSubject) {
		r = r.plus(bySubject(ctx, st, uint64(want.MaxMsgsPerSubject)))
	}
	if r.Messages >= state.Msgs {
		return all
	}
	return r
}

// overlapping joins two removals that both begin with the oldest message.
func (r Removal) overlapping(o Removal) Removal {
	return Removal{Messages: max(r.Messages, o.Messages), Bytes: max(r.Bytes, o.Bytes), More: r.More || o.More}
}

// plus joins two removals that may be of different messages.
func (r Removal) plus(o Removal) Removal {
	both := r.overlapping(o)
	both.More = both.More || r.Messages > 0 && o.Messages > 0
	return both
}

// byCount is what MaxMsgs and MaxBytes delete. How many messages the bytes are is unknown
// unless one reads them.
func byCount(state *jetstream.StreamState, want *jetstream.StreamConfig) Removal {
	var r Removal
	if want.Discard != jetstream.DiscardOld {
		return r
	}
	if limit := uint64(max(want.MaxMsgs, 0)); limit > 0 && state.Msgs > limit {
		r.Messages = state.Msgs - limit
	}
	if limit := uint64(max(want.MaxBytes, 0)); limit > 0 && state.Bytes > limit {
		r = r.overlapping(Removal{Messages: 1, Bytes: state.Bytes - limit, More: true})
	}
	return r
}

// byAge counts the messages that were stored before a time. The server lists the deleted
// messages among them, which are not there to be deleted.
func byAge(ctx context.Context, st jetstream.Stream, before time.Time) Removal {
	state := &st.CachedInfo().State
	first, err := FirstSince(ctx, st, before)
	if err != nil {
		return Removal{More: true}
	}
	n := first - state.FirstSeq
	deleted := uint64(max(state.NumDeleted, 0))
	switch {
	case n == 0 || deleted == 0:
		return Removal{Messages: n}
	case deleted > maxListedDeleted:
		return Removal{Messages: n - min(n, deleted), More: true}
	}
	info, err := st.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return Removal{Messages: n - min(n, deleted), More: true}
	}
	for _, sequence := range info.State.Deleted {
		if sequence >= state.FirstSeq && sequence < first {
			n--
		}
	}
	return Removal{Messages: n}
}

// FirstSince returns the sequence of the first message that was stored at or after a time,
// or the one after the last. Times rise with the sequences, so it is a binary search.
func FirstSince(ctx context.Context, st jetstream.Stream, at time.Time) (uint64, error) {
	low, high := st.CachedInfo().State.FirstSeq, st.CachedInfo().State.LastSeq+1
	for low < high {
		middle := low + (high-low)/2
		m, err := st.GetMsg(ctx, middle, jetstream.WithGetMsgSubject(">")) // this one or the next
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			high = middle
		case err != nil:
			return 0, err
		case m.Time.Before(at):
			low = m.Sequence + 1
		default:
			high = middle
		}
	}
	return low, nil
}

// bySubject counts the messages above a limit on each subject.
func bySubject(ctx context.Context, st jetstream.Stream, limit uint64) Removal {
	if st.CachedInfo().State.NumSubjects > maxListedSubjects {
		return Removal{More: true}
	}
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return Removal{More: true}
	}
	var r Removal
	for _, n := range info.State.Subjects {
		r.Messages += n - min(n, limit)
	}
	return r
}
