package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Removal is what a change of a stream removes of what is stored now.
type Removal struct {
	Messages uint64 // at least
	Bytes    uint64 // of them, as the server counts, at least; 0 where that is not known
	More     bool   // it may be more than that; false: Messages is the number
}

func (r Removal) String() string {
	switch {
	case r.Messages == 0 && r.More:
		return "an unknown number of messages"
	case r.Messages == 0:
		return "no messages"
	}
	text := fmt.Sprintf("%d messages", r.Messages)
	if r.Messages == 1 {
		text = "1 message"
	}
	if r.Bytes > 0 {
		text += fmt.Sprintf(" (%d bytes)", r.Bytes)
	}
	if r.More {
		return "at least " + text
	}
	return text
}

const (
	// mostSubjects and mostDeleted bound what the server is asked to list.
	mostSubjects = 100_000
	mostDeleted  = 100_000
)

// removal estimates what the server removes when the stream gets the configuration
// want. What cannot be found out is told as unknown: it explains an error, and is none.
func removal(ctx context.Context, st jetstream.Stream, want *jetstream.StreamConfig) Removal {
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
		r.More = true // what all of them have acknowledged
	}
	r = r.and(oldest(state, want))
	if lowered(have.MaxAge, want.MaxAge) {
		r = r.and(outdated(ctx, st, time.Now().Add(-want.MaxAge)))
	}
	if lowered(have.MaxMsgsPerSubject, want.MaxMsgsPerSubject) {
		r = r.beside(perSubject(ctx, st, uint64(want.MaxMsgsPerSubject)))
	}
	if r.Messages >= state.Msgs {
		return all
	}
	return r
}

// and joins two removals that both begin with the oldest message.
func (r Removal) and(o Removal) Removal {
	return Removal{Messages: max(r.Messages, o.Messages), Bytes: max(r.Bytes, o.Bytes), More: r.More || o.More}
}

// beside joins two that may be of different messages.
func (r Removal) beside(o Removal) Removal {
	both := r.and(o)
	both.More = both.More || r.Messages > 0 && o.Messages > 0
	return both
}

// oldest is what MaxMsgs and MaxBytes remove. How many messages the bytes are is not
// known without reading them.
func oldest(state *jetstream.StreamState, want *jetstream.StreamConfig) Removal {
	var r Removal
	if want.Discard != jetstream.DiscardOld {
		return r
	}
	if limit := uint64(max(want.MaxMsgs, 0)); limit > 0 && state.Msgs > limit {
		r.Messages = state.Msgs - limit
	}
	if limit := uint64(max(want.MaxBytes, 0)); limit > 0 && state.Bytes > limit {
		r = r.and(Removal{Messages: 1, Bytes: state.Bytes - limit, More: true})
	}
	return r
}

// outdated counts the messages before a time.
func outdated(ctx context.Context, st jetstream.Stream, before time.Time) Removal {
	state := &st.CachedInfo().State
	first, err := firstSince(ctx, st, before)
	if err != nil {
		return Removal{More: true}
	}
	n := first - state.FirstSeq
	gaps := uint64(max(state.NumDeleted, 0))
	switch {
	case n == 0 || gaps == 0:
		return Removal{Messages: n}
	case gaps > mostDeleted:
		return Removal{Messages: n - min(n, gaps), More: true}
	}
	info, err := st.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return Removal{Messages: n - min(n, gaps), More: true}
	}
	for _, sequence := range info.State.Deleted {
		if sequence >= state.FirstSeq && sequence < first {
			n--
		}
	}
	return Removal{Messages: n}
}

// firstSince returns the sequence of the first message that is not before a time, or
// the one after the last. Times rise with the sequences.
func firstSince(ctx context.Context, st jetstream.Stream, at time.Time) (uint64, error) {
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

// perSubject counts the messages that are more than a limit on one subject.
func perSubject(ctx context.Context, st jetstream.Stream, limit uint64) Removal {
	if st.CachedInfo().State.NumSubjects > mostSubjects {
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
