package deadletter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

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
