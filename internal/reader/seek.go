package reader

import (
	"context"
	"errors"
)

// maxReadBack limits how many messages SeekLast reads to find the first of the last n.
const maxReadBack = 1000

// SeekLast moves to the first of the last n messages up to the end that match the filter. If
// messages are stored or removed at the same time, there may be a few more or fewer. So it is
// with more than 1000 messages of a replicated stream: a replica that is behind may count them.
func (r *Reader) SeekLast(ctx context.Context, n uint64) error {
	if r.replicated && n <= maxReadBack {
		return r.seekLastByReading(ctx, n)
	}
	err := r.seekLastByCounting(ctx, n)
	if errors.Is(err, ErrNoDirect) {
		return r.seekLastByReading(ctx, n)
	}
	return err
}

// seekLastByCounting is SeekLast where the server counts. It returns ErrNoDirect where not.
func (r *Reader) seekLastByCounting(ctx context.Context, n uint64) error {
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

// seekLastByReading is SeekLast where the server does not count. It reads parts of the stream
// before the end, each twice as long as the one before, until one has n messages.
func (r *Reader) seekLastByReading(ctx context.Context, n uint64) error {
	low := max(r.first, 1)
	for span := n; ; span *= 2 {
		all := span/2 >= r.last || span >= r.last+1-min(low, r.last+1) // the first: before span overflows
		from := low
		if !all {
			from = r.last + 1 - span
		}
		found, err := r.sequences(ctx, from, n)
		if err != nil {
			return err
		}
		if all || uint64(len(found)) == n {
			r.moveTo(append(found, r.last+1)[0])
			return nil
		}
	}
}

// sequences returns the sequences of the last n messages from a sequence up to the end that
// match the filter.
func (r *Reader) sequences(ctx context.Context, from, n uint64) (found []uint64, err error) {
	r.moveTo(from)
	for {
		d, ok, err := r.Next(ctx)
		if !ok || err != nil {
			return found, err
		}
		if uint64(len(found)) == n {
			found = found[1:]
		}
		found = append(found, d.Stored.Sequence)
	}
}

// moveTo makes a sequence the next one. It drops what was fetched or requested.
func (r *Reader) moveTo(sequence uint64) {
	if r.inbox.pending {
		r.inbox.close()
	}
	r.next, r.ready = sequence, r.buffer[:0]
}

// seekTime moves to the first message since the time of the Config. A server before 2.11 does
// not know how. Next calls it where messages come from the leader.
func (r *Reader) seekTime(ctx context.Context) error {
	low, high := max(r.first, 1), r.last+1
	for low < high {
		middle := low + (high-low)/2
		r.next = middle
		d, ok, err := r.One(ctx)
		switch {
		case err != nil:
			r.next = 0
			return err
		case ok && d.Stored.Time.Before(r.cfg.Since):
			low = d.Stored.Sequence + 1
		default:
			high = middle
		}
	}
	r.next, r.ready = low, r.buffer[:0]
	return nil
}
