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

// replayOptions is what the options of one Replay say.
type replayOptions struct {
	from   uint64
	since  time.Time
	last   int
	follow bool
	codec  codec.Codec
	optionErrors
}

type replayOption func(*replayOptions)

func (f replayOption) onReplay(o *replayOptions) { f(o) }

func (a asOption) onReplay(o *replayOptions) {
	if err := a.check(); err != nil {
		o.addError(err)
		return
	}
	o.codec = a.codec
}

func (o *replayOptions) fail(option string, value any, reason string) {
	o.addError(&OptionError{Option: option, Value: fmt.Sprint(value), Reason: reason})
}

// start forgets where to begin: of several options the last one counts.
func (o *replayOptions) start(from uint64, since time.Time, last int) {
	o.from, o.since, o.last = from, since, last
}

// ReplayFromSequence begins with the message that has this sequence in the stream, or
// the first one after it. The default is 1. A sequence that the stream has not reached
// yet is no error: then there is nothing to read, until Follow sees it.
func ReplayFromSequence(sequence uint64) ReplayOption {
	return replayOption(func(o *replayOptions) {
		if sequence == 0 {
			o.fail("ReplayFromSequence", sequence, "sequences begin at 1")
			return
		}
		o.start(sequence, time.Time{}, 0)
	})
}

// ReplayFromTime begins with the first message that was stored at t or later.
func ReplayFromTime(t time.Time) ReplayOption {
	return replayOption(func(o *replayOptions) {
		if t.IsZero() {
			o.fail("ReplayFromTime", "0", "give a time; without the option it begins with the first message")
			return
		}
		o.start(0, t, 0)
	})
}

// ReplayFromLast begins with the last n messages that match. Where others are stored or
// removed at the same moment it may be a few more or less. The stream must allow direct get,
// as those of Bus.Stream do.
func ReplayFromLast(n int) ReplayOption {
	return replayOption(func(o *replayOptions) {
		if n < 1 {
			o.fail("ReplayFromLast", n, "must be more than zero")
			return
		}
		o.start(0, time.Time{}, n)
	})
}

// Follow has Replay wait for new messages at the end, until its context ends. They come
// a quarter of a second after they were stored, or earlier.
func Follow() ReplayOption {
	return replayOption(func(o *replayOptions) { o.follow = true })
}

// Replay returns the messages of st that match s, in the order of the stream, up to
// the last one that is there when the loop begins; Follow goes on with new ones. It
// only reads: no consumer is made, nothing is acknowledged or removed, whatever the
// retention and whoever else reads. Messages that are removed before their turn are
// passed over. Each loop over what it returns begins anew.
//
// About two MiB of messages are fetched ahead of the loop's body, which may take as
// long as it wants. Leaving the loop frees everything.
//
// An error beside a message is about that message, which could not be read: it has
// everything but Data, and the loop may go on. *CodecError, *ValidationError.
//
// An error without a message ends the loop: *OptionError,
// *SubjectError; ErrStreamNotFound, also when the stream was deleted, or deleted and
// made anew, meanwhile; *StreamError; ErrTimeout and ErrDisconnected when the
// server does not answer for as long as the bus's timeout, which Follow waits
// out; ErrClosed when the bus ends; and that of ctx. ctx bounds the whole loop.
//
// Attempt is 1, Deliveries 0. Middleware is not called.
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
	if err := s.callable(ctx, "Replay"); err != nil {
		return nil, err
	}
	o := &replayOptions{}
	if err := applyAll(opts, o, ReplayOption.onReplay); err != nil {
		return nil, err
	}
	if err := checkPattern(pattern); err != nil {
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
