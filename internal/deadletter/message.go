package deadletter

import (
	"time"

	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// Message is a dead letter.
type Message struct {
	*sidestream.Copy // of the message that failed

	Address  sidestream.Address // of that message, and of the durable that gave it up
	Position uint64             // sequence of the dead letter in S-dead
	DeadAt   time.Time          // when it was stored there
}

// parse returns the dead letter that d holds. ok is false if d is none.
func parse(d *wire.Delivery) (m *Message, ok bool) {
	kind, address, ok := sidestream.ParseSubject(d.Subject)
	if !ok || kind != sidestream.Dead {
		return nil, false
	}
	c, err := sidestream.ParseCopy(d.Header, d.Data)
	if err != nil {
		return nil, false
	}
	return &Message{Copy: c, Address: address, Position: d.Stored.Sequence, DeadAt: d.Stored.Time}, true
}

// redriven returns the copy that a redrive stores.
func (m *Message) redriven() *sidestream.Copy {
	return &sidestream.Copy{Subject: m.Subject, Header: m.Header, Data: m.Data, Stream: m.Stream,
		Sequence: m.Sequence, Time: m.Time, DeadLetter: m.Position}
}
