package outlet

import (
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
)

// confirmations counts, in their order, the messages that an Async has handed to the
// connection, and those that the server has confirmed. It belongs to Async.run.
//
// An answered flush alone does not confirm a message. The connection may be lost and come
// back between the message and the flush. Then the flush is answered over the new
// connection, and the message is gone. So confirmations follows the states of the
// connection, which nats.go reports at the moment they change. Messages that were sent
// before a loss and are not confirmed by then may be lost. Messages that are sent after it
// wait in the buffer of nats.go for the next connection.
type confirmations struct {
	sent        int64 // messages handed to the connection
	settled     int64 // of those, counted from the first: confirmed, or given up as lost
	flushedAt   int64 // the value of sent at the latest flush
	flushing    bool  // a flush is under way
	flushResult chan error

	connected bool
	states    <-chan nats.Status
}

// watchConfirmations follows the states of l until stop is called.
func watchConfirmations(l *link.Link) (c confirmations, stop func()) {
	nc := l.Conn()
	states := nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	return confirmations{flushResult: make(chan error, 1), states: states, connected: nc.IsConnected()},
		func() { nc.RemoveStatusListener(states) }
}

// unconfirmed returns the number of messages that are neither confirmed nor lost.
func (c *confirmations) unconfirmed() int { return int(c.sent - c.settled) }

// setState records a new state of the connection and returns how many messages may be
// lost with it.
func (c *confirmations) setState(s nats.Status) (lost int) {
	was := c.connected
	c.connected = s == nats.CONNECTED
	if c.connected || !was && s != nats.CLOSED {
		return 0
	}
	lost = c.unconfirmed()
	c.settled = c.sent
	return lost
}

// confirm confirms the messages that were sent before the latest flush, and returns their
// number.
func (c *confirmations) confirm() int64 {
	n := max(c.flushedAt-c.settled, 0)
	c.settled += n
	return n
}
