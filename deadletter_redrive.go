package bus

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// RedriveOption changes one Redrive.
type RedriveOption interface{ onRedrive(*redriveOptions) }

type redriveOptions struct {
	every time.Duration // from one letter to the next
	optionErrors
}

type redriveOption func(*redriveOptions)

func (f redriveOption) onRedrive(o *redriveOptions) { f(o) }

// RedriveRate gives back at most so many letters each second, evenly, so that what
// failed under load is not put under load again. It may be less than one: 0.1 is one
// every ten seconds. Without it all are given back at once.
func RedriveRate(perSecond float64) RedriveOption {
	return redriveOption(func(o *redriveOptions) {
		every := time.Duration(float64(time.Second) / perSecond)
		if !(perSecond > 0) || every <= 0 {
			o.addError(&OptionError{Option: "RedriveRate", Value: fmt.Sprint(perSecond), Reason: "must be more than zero, and at most a thousand millions"})
			return
		}
		o.every = every
	})
}

// Redrive gives the dead letters that fit f to the consumers that gave them up, and
// to no other: each is handled once more as if it came for the first time, in the
// order of the stream. It returns how many it gave back. One that fails again becomes
// a dead letter again. Errors are those of DeadLetters, *OptionError, and
// *ConsumerNotFoundError where a letter that fits is of a consumer that was deleted:
// then none is given back. After other errors what was given back until then stays so.
// The end of ctx is one.
func (s *Stream) Redrive(ctx context.Context, f DeadFilter, opts ...RedriveOption) (int, error) {
	o := &redriveOptions{}
	if err := applyAll(opts, o, RedriveOption.onRedrive); err != nil {
		return 0, err
	}
	all, durables, err := s.inOrder(ctx, f)
	if err != nil {
		return 0, err
	}
	for durable := range durables {
		if err := s.takesBack(ctx, durable); err != nil {
			return 0, err
		}
	}
	n := 0
	for i, l := range all {
		if i > 0 {
			if err := o.wait(ctx); err != nil {
				return n, err
			}
		}
		given, err := s.redriveAt(ctx, l.position)
		if err != nil {
			return n, err
		}
		if given {
			n++
		}
	}
	return n, nil
}

// wait lets the time between two letters pass.
func (o *redriveOptions) wait(ctx context.Context) error {
	if o.every > 0 {
		t := time.NewTimer(o.every)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return &opError{"Redrive", contextError(ctx)}
	}
	return nil
}

// whereabouts is what Redrive keeps of a letter: there may be many.
type whereabouts struct{ sequence, position uint64 }

// inOrder returns where the letters are that fit f, in the order of the stream, and
// the durables that gave them up.
func (s *Stream) inOrder(ctx context.Context, f DeadFilter) (all []whereabouts, durables map[string]bool, err error) {
	durables = make(map[string]bool)
	_, err = s.eachDead(ctx, "Redrive", f, func(_ context.Context, l *DeadLetter) error {
		all, durables[l.Durable] = append(all, whereabouts{l.Sequence, l.position}), true
		return nil
	})
	slices.SortFunc(all, func(a, b whereabouts) int {
		return cmp.Or(cmp.Compare(a.sequence, b.sequence), cmp.Compare(a.position, b.position))
	})
	return all, durables, err
}

// takesBack returns an error unless a durable has somebody to take what is given back:
// else that would lie in S-retry for ever, and be no dead letter any more.
func (s *Stream) takesBack(ctx context.Context, durable string) error {
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	for _, stream := range []string{s.name, sidestream.RetryStream(s.name)} { // whoever deletes the first may not know of the other
		_, err := s.bus.core.JetStream.Consumer(ctx, stream, durable)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
			return &ConsumerNotFoundError{Stream: s.name, Durable: durable}
		case err != nil:
			return streamError(stream, "redrive", err)
		}
	}
	return nil
}

// redriveAt gives the letter at a position back, unless somebody else has.
func (s *Stream) redriveAt(ctx context.Context, position uint64) (given bool, err error) {
	d, ok, err := s.bus.one(ctx, sidestream.DeadStream(s.name), sidestream.Pattern(sidestream.Dead, s.name), position)
	if err != nil || !ok || d.Stored.Sequence != position {
		return false, err
	}
	l := s.letterOf(&d)
	if l == nil {
		return false, nil
	}
	return true, s.redrive(ctx, l)
}

// one returns the first message of a stream that matches a pattern, from a sequence on.
func (b *Bus) one(ctx context.Context, stream, pattern string, from uint64) (d wire.Delivery, ok bool, err error) {
	r := b.reader(stream, pattern, &replayOptions{from: from})
	defer r.Close()
	d, ok, err = r.One(ctx)
	if err != nil && ctx.Err() != nil {
		err = contextError(ctx)
	}
	if err != nil {
		err = streamError(stream, "read", err)
	}
	return d, ok, err
}

// redrive puts l before its consumer, then removes it: a crash in between does no
// harm, as it is put only where it is not yet.
func (s *Stream) redrive(ctx context.Context, l *DeadLetter) error {
	c := l.copy()
	if l.Reference {
		d, ok, err := s.bus.one(ctx, s.name, ">", l.Sequence)
		if err != nil {
			return err
		}
		if !ok || d.Stored.Sequence != l.Sequence || !d.Stored.Time.Equal(l.Time) {
			return &StreamError{Stream: s.name, Op: "redrive", Err: fmt.Errorf("message %d is not in the stream any more, and its dead letter only refers to it; Discard it", l.Sequence)}
		}
		c.Header, c.Data = d.Header, d.Data
	}
	if _, err := s.putBack(ctx, l, c); err != nil {
		return err
	}
	return s.discard(ctx, l)
}

// putBack puts c, of l, before its consumer, unless an earlier call has put a copy of l
// there, which lies at the position it returns. Any other copy in that place is what
// died, and is about to be removed from there: c goes after it.
func (s *Stream) putBack(ctx context.Context, l *DeadLetter, c *sidestream.Copy) (at uint64, err error) {
	name, subject := sidestream.RetryStream(s.name), l.place.Subject(sidestream.Retry)
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	for out := c.Message(subject); ; {
		if err := sidestream.StoreCopy(ctx, s.bus.core, sidestream.Retry, out); err == nil {
			return 0, nil
		} else if !jserr.IsWrongLastSequence(err) {
			return 0, streamError(name, "redrive", err)
		}
		last, _, err := s.bus.core.Outlet.LookUp(ctx, name, outlet.Query{Last: subject})
		if err != nil {
			return 0, streamError(name, "redrive", err)
		}
		if there, err := sidestream.ParseCopy(last.Header, nil); err == nil && there.DeadLetter == l.position {
			return last.Sequence, nil
		}
		sidestream.ExpectLast(&out, last.Sequence)
	}
}

// copy is what is given back of l.
func (l *DeadLetter) copy() *sidestream.Copy {
	return &sidestream.Copy{Subject: l.Subject, Header: wire.Header(l.Header), Data: l.Data, Stream: l.Stream,
		Sequence: l.Sequence, Time: l.Time, DeadLetter: l.position}
}

// RedriveAs gives the dead letter l to the consumer that gave it up, with the payload v
// in place of its own, for messages that no handler can take as they are. l comes from
// DeadLetters.
//
// v is encoded as Publish would. The header is that of l, which may be changed before,
// but for what says how the payload is encoded, and for the names that WithHeader sets.
// Bytes count as of the content type that l has. The header Bus-Edited gets the time of
// the edit, one value for each. When the message is before its consumer the letter is
// removed; a crash in between does no harm.
//
// Errors: *OptionError, *CodecError, *ValidationError, *PayloadError,
// *ConsumerNotFoundError, *StreamError, also where the letter is gone, as after Redrive
// or Discard, and where the message, unchanged or changed in another way, waits
// for its consumer already; ErrTimeout, ErrClosed. A letter that is there stays then.
func RedriveAs[T any](ctx context.Context, l *DeadLetter, v T, opts ...MessageOption) error {
	if l == nil || l.stream == nil {
		return badArgument("RedriveAs", "letter", "is not one of DeadLetters")
	}
	b := l.stream.bus
	if err := b.callable(ctx, "RedriveAs"); err != nil {
		return err
	}
	o := &sendOptions{}
	if err := applyAll(opts, o, MessageOption.onPublish); err != nil {
		return err
	}
	var m outlet.Message
	if err := encode(&m, b.format, l.Subject, v, o); err != nil {
		return err
	}
	_, verbatim := any(v).([]byte)
	m.Header = l.editedHeader(m.Header, verbatim && o.codec == nil)
	if err := b.core.Outlet.CheckSize(&m); err != nil {
		return payloadError(err)
	}
	c := l.copy()
	c.Header, c.Data = m.Header, m.Data
	return l.stream.redriveEdited(ctx, l, c)
}

// editedHeader is the header of l with another payload, and with what the call sets.
func (l *DeadLetter) editedHeader(set wire.Header, keepType bool) wire.Header {
	h := make(wire.Header, len(l.Header)+len(set)+1)
	for key, values := range l.Header {
		replaced := strings.EqualFold(key, wire.HeaderContentEncoding) || !keepType && strings.EqualFold(key, wire.HeaderContentType)
		for k := range set {
			replaced = replaced || strings.EqualFold(key, k)
		}
		if !replaced {
			h[key] = values
		}
	}
	maps.Copy(h, set)
	h[wire.HeaderBusEdited] = slices.Concat(h[wire.HeaderBusEdited], []string{time.Now().UTC().Format(time.RFC3339Nano)})
	return h
}

// redriveEdited puts c, which l has become, before its consumer, then removes l. Where
// something is there already it must be the same, from a call that a crash cut off.
func (s *Stream) redriveEdited(ctx context.Context, l *DeadLetter, c *sidestream.Copy) error {
	if err := s.takesBack(ctx, l.Durable); err != nil {
		return err
	}
	if err := s.stillLies(ctx, l); err != nil {
		return err
	}
	at, err := s.putBack(ctx, l, c)
	if err != nil {
		return err
	}
	if at > 0 {
		name := sidestream.RetryStream(s.name)
		d, ok, err := s.bus.one(ctx, name, l.place.Subject(sidestream.Retry), at)
		if err != nil {
			return err
		}
		if !ok || !sameEdit(&d, c) {
			return &StreamError{Stream: name, Op: "redrive", Err: errors.New("the message waits for its consumer already, and not as it would be now; its dead letter stays")}
		}
	}
	return s.discard(ctx, l)
}

// stillLies returns an error where somebody has given l back meanwhile, or discarded it.
func (s *Stream) stillLies(ctx context.Context, l *DeadLetter) error {
	name := sidestream.DeadStream(s.name)
	d, ok, err := s.bus.one(ctx, name, l.place.Subject(sidestream.Dead), l.position)
	if err == nil && (!ok || d.Stored.Sequence != l.position) {
		err = &StreamError{Stream: name, Op: "redrive", Err: fmt.Errorf("the letter of message %d is there no more, it was given back, edited or discarded; look at DeadLetters again", l.Sequence)}
	}
	return err
}

// sameEdit reports whether d is the copy c, but for the time.
func sameEdit(d *wire.Delivery, c *sidestream.Copy) bool {
	have, err := sidestream.ParseCopy(d.Header, d.Data)
	if err != nil || !bytes.Equal(have.Data, c.Data) || len(have.Header) != len(c.Header) {
		return false
	}
	for key, values := range c.Header {
		if key != wire.HeaderBusEdited && !slices.Equal(have.Header[key], values) {
			return false
		}
	}
	return len(have.Header[wire.HeaderBusEdited]) == len(c.Header[wire.HeaderBusEdited])
}
