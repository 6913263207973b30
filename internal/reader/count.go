package reader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrNoDirect is the error of Count and SeekLast for a stream that does not allow direct get.
// To count its messages, read them.
var ErrNoDirect = errors.New("the stream does not allow direct get")

// Count returns how many messages from a sequence on match the filter, also after the end.
func (r *Reader) Count(ctx context.Context, from uint64) (uint64, error) {
	if !r.direct {
		return 0, ErrNoDirect
	}
	body, err := json.Marshal(request{Seq: from, Next: r.cfg.Filter, Batch: 1, Bytes: 1})
	if err != nil {
		return 0, err
	}
	m, err := r.requestReply(ctx, directGet+r.cfg.Stream, body) // the server sends two messages; the first has the count, the second is dropped
	if err != nil {
		return 0, err
	}
	switch {
	case len(m.Header[headerSequence]) > 0:
		return headerNumber(m.Header, headerPending) + 1, nil
	case m.Header.Get("Status") == "404":
		return 0, nil
	}
	return 0, fmt.Errorf("the server refuses to count: %s %s", m.Header.Get("Status"), m.Header.Get("Description"))
}

// SeekLast moves to the first of the last n messages up to the end that match the filter. If
// messages are stored or removed at the same time, there may be a few more or fewer.
func (r *Reader) SeekLast(ctx context.Context, n uint64) error {
	low, high := max(r.first, 1), r.last+1 // the range of the search, if there are so many
	afterEnd, err := r.Count(ctx, r.last+1)
	for guess := high - min(n, high-low); err == nil && low < high; guess = low + (high-low)/2 {
		var atLeast, atMost uint64
		switch atLeast, atMost, err = r.countToEnd(ctx, guess, &afterEnd); {
		case atLeast <= n && n <= atMost:
			r.next = guess
			return err
		case atLeast > n:
			low = guess + 1
		default:
			high = guess
		}
	}
	r.next = low
	return err
}

// countToEnd counts the matching messages from a sequence up to the end. It subtracts the
// messages after the end from all. Messages may be stored between the two counts, so the
// result is a range. *afterEnd is the latest count of messages after the end.
func (r *Reader) countToEnd(ctx context.Context, from uint64, afterEnd *uint64) (atLeast, atMost uint64, err error) {
	all, err := r.Count(ctx, from)
	if err != nil {
		return 0, 0, err
	}
	atMost = all - min(*afterEnd, all)
	*afterEnd, err = r.Count(ctx, r.last+1)
	return all - min(*afterEnd, all), atMost, err
}
