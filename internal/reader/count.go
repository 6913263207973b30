package reader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrNoDirect is returned by Count and SeekLast for a stream that does not answer
// batched requests: then only reading all of it tells.
var ErrNoDirect = errors.New("the stream does not allow direct get")

// Count returns how many messages the filter matches from a sequence on, also those
// beyond the end.
func (r *Reader) Count(ctx context.Context, from uint64) (uint64, error) {
	if !r.direct {
		return 0, ErrNoDirect
	}
	body, err := json.Marshal(request{Seq: from, Next: r.cfg.Filter, Batch: 1, Bytes: 1})
	if err != nil {
		return 0, err
	}
	m, err := r.answer(ctx, directGet+r.cfg.Stream, body) // the first of two messages; nobody takes the other
	if err != nil {
		return 0, err
	}
	switch {
	case len(m.Header[headerSequence]) > 0:
		return number(m.Header, headerPending) + 1, nil
	case m.Header.Get("Status") == "404":
		return 0, nil
	}
	return 0, fmt.Errorf("the server refuses to count: %s %s", m.Header.Get("Status"), m.Header.Get("Description"))
}

// SeekLast goes to where the last n messages before the end begin that the filter
// matches. Where messages are stored or removed at the same time there may be a few
// more or fewer.
func (r *Reader) SeekLast(ctx context.Context, n uint64) error {
	low, high := max(r.first, 1), r.last+1 // it lies between, if there are so many
	beyond, err := r.Count(ctx, r.last+1)
	for guess := high - min(n, high-low); err == nil && low < high; guess = low + (high-low)/2 {
		var least, most uint64
		switch least, most, err = r.countToEnd(ctx, guess, &beyond); {
		case least <= n && n <= most:
			r.next = guess
			return err
		case least > n:
			low = guess + 1
		default:
			high = guess
		}
	}
	r.next = low
	return err
}

// countToEnd is Count without what lies beyond the end, which was *beyond a moment ago:
// it is counted by itself, so what is stored meanwhile makes of the number two.
func (r *Reader) countToEnd(ctx context.Context, from uint64, beyond *uint64) (least, most uint64, err error) {
	all, err := r.Count(ctx, from)
	if err != nil {
		return 0, 0, err
	}
	most = all - min(*beyond, all)
	*beyond, err = r.Count(ctx, r.last+1)
	return all - min(*beyond, all), most, err
}
