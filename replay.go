package bus

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/reader"
	"github.com/omnibus-go/bus/internal/wire"
)

// ReplayOption changes one Replay.
type ReplayOption interface{ onReplay(*replayOptions) }

// replayOptions are the options of one Replay.
type replayOptions struct {
	start  string // what the option that names the first message says; empty without one
	from   uint64
	since  time.Time
	last   int
	follow bool
	codec  codec.Codec
	optionErrors
}

// replayOption is an option of Replay alone.
type replayOption func(*replayOptions)

func (f replayOption) onReplay(o *replayOptions) { f(o) }

func (o *replayOptions) fail(option string, value any, reason string) {
	o.addError(&OptionError{Option: option, Value: fmt.Sprint(value), Reason: reason})
}

// startAt sets where to begin. start is what the option says.
func (o *replayOptions) startAt(start string, from uint64, since time.Time, last int) {
	if o.start != "" && o.start != start {
		o.fail("Replay start", start, "another option says "+o.start+" already; leave one out")
		return
	}
	o.start, o.from, o.since, o.last = start, from, since, last
}

// Last begins with the last n messages that match. If others store or remove messages at
// the same time, it may be a few more or less. So it is if n is over 1000 and the stream has
// replicas: one that is a moment behind may count.
func Last(n int) ReplayOption {
	return replayOption(func(o *replayOptions) {
		if n < 1 {
			o.fail("Last", n, "must be more than zero")
			return
		}
		o.startAt(fmt.Sprintf("last %d", n), 0, time.Time{}, n)
	})
}

// Follow lets Replay wait for new messages at the end, until its context ends. A new message
// comes at most a quarter of a second after it was stored.
func Follow() ReplayOption {
	return replayOption(func(o *replayOptions) { o.follow = true })
}

// Replay returns the messages of st that match s, in the order of the stream. It begins with
// the first message, or where StartAtSequence, StartAtTime or Last say. A sequence that the
// stream has not reached is no error: there is nothing to read yet. It ends with the message
// that is the last one when the loop begins. With Follow it goes on with new messages.
//
// Replay only reads. It makes no consumer, acknowledges nothing and removes nothing. The
// retention of the stream and other readers do not matter. A message that is removed before
// the loop comes to it is skipped. Each loop over the result begins again.
//
// Replay fetches about 2 MiB ahead of the body of the loop, which may take as long as it
// wants. Leaving the loop frees everything.
//
// An error beside a message means that this message could not be decoded. The message has
// everything except Data, and the loop may go on. It is a *CodecError or a
// *ValidationError.
//
// An error without a message ends the loop. It is a *OptionError, *SubjectError or
// *StreamError; ErrStreamNotFound, also if the stream is deleted, or deleted and declared
// again, while the loop runs; ErrTimeout or ErrDisconnected if the server does not answer
// within the timeout of the bus, except with Follow, which waits; ErrClosed when the bus
// ends; or the error of ctx. ctx bounds the whole loop.
//
// Attempt is 1 and Deliveries is 0. Middleware is not called.
func Replay[T any](ctx context.Context, st *Stream, s Subject[T], opts ...ReplayOption) iter.Seq2[*Msg[T], error] {
	return func(yield func(*Msg[T], error) bool) {
		r, err := st.replay(ctx, string(s), opts)
		if err != nil {
			yield(nil, err)
			return
		}
		defer r.Close()
		f, info := st.bus.format, payload.TypeOf[T](st.bus.format)
		err = r.each(ctx, func(raw *RawMsg) bool {
			m, err := decode[T](f, info, r.codec, raw)
			if err != nil {
				m = retyped(raw, *new(T))
			}
			return yield(m, err)
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// replay is one loop over messages.
type replay struct {
	*reader.Reader
	*replayOptions
	stream *Stream
}

// replay makes ready to read.
func (s *Stream) replay(ctx context.Context, pattern string, opts []ReplayOption) (*replay, error) {
	if err := s.ready(ctx, "Replay"); err != nil {
		return nil, err
	}
	o := &replayOptions{}
	_ = applyAll(opts, o, ReplayOption.onReplay) // what is wrong is returned with the rest
	addPattern(o, pattern)
	if err := o.joined(); err != nil {
		return nil, err
	}
	if err := s.checkMayHave(ctx, pattern); err != nil {
		return nil, err
	}
	r := &replay{Reader: s.bus.reader(s.name, pattern, o), replayOptions: o, stream: s}
	if err := r.begin(ctx); err != nil {
		r.Close()
		return nil, r.failed(ctx, err)
	}
	return r, nil
}

// reader returns a reader of the messages of a stream that match a pattern.
func (b *Bus) reader(stream, pattern string, o *replayOptions) *reader.Reader {
	c := reader.Config{Stream: stream, Filter: pattern, From: o.from, Since: o.since, Timeout: b.core.Timeout, Ended: b.core.Handlers.Done()}
	if o.follow {
		c.Timeout, c.Ended = 0, b.core.Stopping
	}
	return reader.New(b.core.Link, c)
}

// begin finds the end, and the beginning where that depends on it.
func (r *replay) begin(ctx context.Context) error {
	err := r.SetEnd(ctx)
	if err == nil && r.last > 0 {
		err = r.SeekLast(ctx, uint64(r.last))
	}
	return err
}

// each gives do all messages until it returns false.
func (r *replay) each(ctx context.Context, do func(*RawMsg) bool) error {
	for pause := followSoonest; ; pause = min(2*pause, followLatest) {
		more, err := r.toEnd(ctx, func(d *wire.Delivery) bool {
			pause = followSoonest
			return do(newRaw(&d.In, d.Stored))
		})
		if err == nil && more {
			err = r.further(ctx, pause)
		}
		if err != nil || !more {
			return r.failed(ctx, err)
		}
		if !r.follow {
			return nil
		}
	}
}

// How long Follow waits until it looks for new messages again: longer each time that
// there are none.
const (
	followSoonest = 5 * time.Millisecond
	followLatest  = 250 * time.Millisecond
)

// further looks where the end is now. Without Follow it only makes sure that the
// stream is still the one that was read.
func (r *replay) further(ctx context.Context, pause time.Duration) error {
	if r.follow {
		if err := r.Pause(ctx, pause); err != nil {
			return err
		}
	}
	return r.SetEnd(ctx)
}

// toEnd gives do what there is before the end; more is false when do wants no more.
func (r *replay) toEnd(ctx context.Context, do func(*wire.Delivery) bool) (more bool, err error) {
	for {
		d, ok, err := r.Next(ctx)
		if err != nil || !ok {
			return true, err
		}
		if !do(&d) {
			return false, nil
		}
	}
}

// failed is err, which ended the reading, for the caller.
func (r *replay) failed(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return &StreamError{Stream: r.stream.name, Op: "replay", Err: contextError(ctx)}
	}
	return streamError(r.stream.name, "replay", err)
}
