package deadletter

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// NoConsumerError is returned by a redrive if the durable that gave a message up was
// deleted. Nothing was redriven.
type NoConsumerError struct{ Stream, Durable string }

func (e *NoConsumerError) Error() string {
	return fmt.Sprintf("stream %q has no consumer %q any more", e.Stream, e.Durable)
}

// reference is what Redrive keeps of a dead letter: there may be many.
type reference struct{ sequence, position uint64 }

// Redrive returns the dead letters that match f to their consumers, in the order of the
// stream, with a pause between two of them. It returns how many. If one of the consumers
// does not exist, none is returned.
func (q *Queue) Redrive(ctx context.Context, f Filter, pause time.Duration) (n int, err error) {
	all, durables, err := q.inOrder(ctx, &f)
	if err != nil {
		return 0, err
	}
	for durable := range durables {
		if err := q.checkConsumer(ctx, durable); err != nil {
			return 0, err
		}
	}
	for i, ref := range all {
		if i > 0 {
			if err := wait(ctx, pause); err != nil {
				return n, err
			}
		}
		ok, err := q.redriveAt(ctx, ref.position)
		if err != nil {
			return n, err
		}
		if ok {
			n++
		}
	}
	return n, nil
}

// inOrder returns the dead letters that match f, in the order of the stream, and the
// durables that gave them up.
func (q *Queue) inOrder(ctx context.Context, f *Filter) (all []reference, durables map[string]bool, err error) {
	durables = make(map[string]bool)
	err = q.each(ctx, f, func(m *Message) (bool, error) {
		all = append(all, reference{m.Sequence, m.Position})
		durables[m.Address.Durable] = true
		return true, nil
	})
	slices.SortFunc(all, func(a, b reference) int {
		return cmp.Or(cmp.Compare(a.sequence, b.sequence), cmp.Compare(a.position, b.position))
	})
	return all, durables, err
}

// checkConsumer returns a *NoConsumerError unless a durable exists and has its consumer in
// S-retry. Else a redriven message would stay in S-retry for ever. Somebody who deletes the
// durable with another client may not know of the second consumer.
func (q *Queue) checkConsumer(ctx context.Context, durable string) error {
	ctx, cancel := q.core.WithTimeout(ctx)
	defer cancel()
	for _, stream := range []string{q.stream, sidestream.RetryStream(q.stream)} {
		_, err := q.core.JetStream.Consumer(ctx, stream, durable)
		switch {
		case jserr.IsAbsent(err):
			return &NoConsumerError{Stream: q.stream, Durable: durable}
		case err != nil:
			return jserr.Wrap(stream, "redrive", err)
		}
	}
	return nil
}

// wait waits for the pause between two dead letters. It returns the cause if ctx has ended.
func wait(ctx context.Context, pause time.Duration) error {
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}

// redriveAt redrives the dead letter at a position in S-dead. ok is false if somebody else
// has redriven or removed it.
func (q *Queue) redriveAt(ctx context.Context, position uint64) (ok bool, err error) {
	d, found, err := q.read(ctx, sidestream.DeadStream(q.stream), sidestream.Pattern(sidestream.Dead, q.stream), position)
	if err != nil || !found {
		return false, err
	}
	m, ok := parse(&d)
	if !ok {
		return false, nil
	}
	return true, q.redrive(ctx, m)
}

// redrive stores the copy of m for its consumer, then removes m.
func (q *Queue) redrive(ctx context.Context, m *Message) error {
	c := m.redriven()
	if m.Reference {
		d, err := q.readOriginal(ctx, m)
		if err != nil {
			return err
		}
		c.Header, c.Data = d.Header, d.Data
	}
	if _, err := q.store(ctx, m, c); err != nil {
		return err
	}
	return q.remove(ctx, m)
}

// readOriginal reads the message that m refers to.
func (q *Queue) readOriginal(ctx context.Context, m *Message) (wire.Delivery, error) {
	d, found, err := q.read(ctx, q.stream, ">", m.Sequence)
	if err == nil && (!found || !d.Stored.Time.Equal(m.Time)) {
		err = jserr.Wrap(q.stream, "redrive", fmt.Errorf("message %d is not in the stream any more, and its dead letter only refers to it; Discard the dead letter", m.Sequence))
	}
	return d, err
}

// store stores c, the copy of m, for its consumer. If an earlier call has stored a copy of
// m already, it returns the sequence of that one. Any other copy with that subject is the
// message that failed, and is about to be removed: c goes after it.
func (q *Queue) store(ctx context.Context, m *Message, c *sidestream.Copy) (earlier uint64, err error) {
	name, subject := sidestream.RetryStream(q.stream), m.Address.Subject(sidestream.Retry)
	ctx, cancel := q.core.WithTimeout(ctx)
	defer cancel()
	for out := c.Message(subject); ; {
		if err := sidestream.StoreCopy(ctx, q.core, sidestream.Retry, out); !jserr.IsWrongLastSequence(err) {
			return 0, jserr.Wrap(name, "redrive", err)
		}
		last, _, err := q.core.Outlet.LookUp(ctx, name, outlet.Query{Last: subject})
		if err != nil {
			return 0, jserr.Wrap(name, "redrive", err)
		}
		if have, err := sidestream.ParseCopy(last.Header, nil); err == nil && have.DeadLetter == m.Position {
			return last.Sequence, nil
		}
		sidestream.ExpectLast(&out, last.Sequence)
	}
}

// RedriveAs redrives m with another header and payload. If a copy of m is stored already it
// must be the same, from a call that a crash interrupted. m stays if there is an error.
func (q *Queue) RedriveAs(ctx context.Context, m *Message, header wire.Header, data []byte) error {
	c := m.redriven()
	c.Header, c.Data = header, data
	if err := q.checkConsumer(ctx, m.Address.Durable); err != nil {
		return err
	}
	if err := q.checkExists(ctx, m); err != nil {
		return err
	}
	earlier, err := q.store(ctx, m, c)
	if err == nil && earlier > 0 {
		err = q.checkSame(ctx, m, c, earlier)
	}
	if err != nil {
		return err
	}
	return q.remove(ctx, m)
}

// checkExists returns an error if somebody has redriven or discarded m meanwhile.
func (q *Queue) checkExists(ctx context.Context, m *Message) error {
	_, found, err := q.read(ctx, sidestream.DeadStream(q.stream), m.Address.Subject(sidestream.Dead), m.Position)
	if err == nil && !found {
		err = q.wrap("redrive", fmt.Errorf("the dead letter of message %d does not exist any more, it was redriven or discarded; look at DeadLetters again", m.Sequence))
	}
	return err
}

// checkSame returns an error unless the copy with a sequence in S-retry is c.
func (q *Queue) checkSame(ctx context.Context, m *Message, c *sidestream.Copy, sequence uint64) error {
	name := sidestream.RetryStream(q.stream)
	d, found, err := q.read(ctx, name, m.Address.Subject(sidestream.Retry), sequence)
	if err == nil && (!found || !isSameEdit(&d, c)) {
		err = jserr.Wrap(name, "redrive", errors.New("the message waits for its consumer already, with another payload or header; its dead letter stays"))
	}
	return err
}

// isSameEdit reports whether d is the copy c, except for the time of the last edit.
func isSameEdit(d *wire.Delivery, c *sidestream.Copy) bool {
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
