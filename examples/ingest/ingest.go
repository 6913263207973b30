package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/codec"
)

const streamName = "GITHUB"

// duplicateWindow is how long the stream knows the IDs of its messages. An event that is read again later is stored
// again. So it must be longer than the time until a file is read again. During that time each
// ID takes some memory of the server. (An ID as a part of the subject would need no window, but
// here the subject is given.)
const duplicateWindow = 24 * time.Hour

// result has the counts of a run.
type result struct {
	lines      int // without empty lines
	stored     int
	duplicates int // lines that were in the stream already, perhaps from this run after a lost answer
	malformed  int
	summary
}

// ingest stores the events of in and waits until each consumer has handled all messages of the stream. After
// an error the result has the counts until then. It is nil if the bus did not start.
func ingest(ctx context.Context, c config, in io.Reader, size int64, con *console) (*result, error) {
	b, err := bus.New(
		bus.WithStoreDir(c.store),
		bus.WithURL(c.url),
		bus.WithCompression(bus.Compression{Encoding: codec.Zstd}),
		bus.WithSlog(slog.New(slog.NewTextHandler(con, &slog.HandlerOptions{Level: slog.LevelWarn}))),
	)
	if err != nil {
		return nil, err
	}
	r := &result{}
	err = r.work(ctx, b, in, con.newBar(size))
	con.endBar()
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted; what was stored stays stored, run it again for the rest")
	}
	// Close waits for the handlers. After it the result does not change any more.
	return r, errors.Join(err, b.Close())
}

func (r *result) work(ctx context.Context, b *bus.Bus, in io.Reader, bar *bar) error {
	st, err := b.Stream(ctx, bus.StreamConfig{Name: streamName, Subjects: []string{"github.>"}, Duplicates: duplicateWindow})
	if err != nil {
		return err
	}
	consumers, err := r.consume(ctx, st)
	if err != nil {
		return err
	}
	if err := r.store(ctx, st, in, bar); err != nil {
		return err
	}
	for _, c := range consumers {
		if err := wait(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// store publishes line after line until in or ctx ends.
func (r *result) store(ctx context.Context, st *bus.Stream, in io.Reader, bar *bar) error {
	for l := range readLines(ctx, in) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// An interrupt does not cancel the storing of a line, so it is always known whether
		// the line was stored.
		if err := r.storeLine(context.WithoutCancel(ctx), st, l, bar.console); err != nil {
			return fmt.Errorf("line %d: %w", l.number, err)
		}
		bar.add(l.size)
	}
	return ctx.Err()
}

// storeLine stores one line. If it cannot be used, storeLine reports that to out.
func (r *result) storeLine(ctx context.Context, st *bus.Stream, l line, out io.Writer) error {
	if len(l.text) == 0 {
		return l.err
	}
	r.lines++
	e, err := parse(l.text)
	if err != nil {
		r.reject(out, l, err)
		return l.err
	}
	ack, err := bus.PublishTo(ctx, st, e.subject, e.payload, bus.MsgID(e.id))
	switch {
	case unusable(err):
		r.reject(out, l, err)
	case err != nil:
		return err
	case ack.Duplicate:
		r.duplicates++
	default:
		r.stored++
	}
	return l.err
}

func (r *result) reject(out io.Writer, l line, err error) {
	r.malformed++
	fmt.Fprintf(out, "line %d: %v\n", l.number, err)
}

// unusable reports whether err is a fault of the message and not of the bus. Then the next message may
// succeed.
func unusable(err error) bool {
	_, subject := errors.AsType[*bus.SubjectError](err)
	_, payload := errors.AsType[*bus.PayloadError](err)
	_, codec := errors.AsType[*bus.CodecError](err)
	return subject || payload || codec
}
