package outlet

import (
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
)

// ledger is what an Async knows of the messages it has handed to the connection.
// It counts them in their order. Not safe for concurrent use.
//
// A flush that was answered is not proof enough: when the connection is lost and
// comes back between a message and the flush, the answer comes over the new one
// and the message is gone. So the ledger follows the states of the connection,
// which nats.go announces at the moment they change: what was handed over before
// a loss was noticed and is not confirmed by then may be lost. What is handed over
// after it waits in nats.go's buffer for the next connection.
type confirmations struct {
	sent        int64 // messages handed to the connection
	settled     int64 // of those, from the first one: confirmed, or given up as lost
	flushedAt   int64 // what handed was at the latest flush
	flushing    bool  // a flush is under way
	flushResult chan error

	connected bool
	states    <-chan nats.Status
}

// newLedger begins to follow l. forget ends that.
func watchConfirmations(l *link.Link) (c confirmations, stop func()) {
	nc := l.Conn()
	states := nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	return confirmations{flushResult: make(chan error, 1), states: states, connected: nc.IsConnected()},
		func() { nc.RemoveStatusListener(states) }
}

// unsettled is the number of messages of which nothing is known.
func (c *confirmations) unconfirmed() int { return int(c.sent - c.settled) }

// note takes a new state of the connection and returns how many messages may be
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

// confirm settles what was handed over before the latest flush, and returns how
// many messages that are.
func (c *confirmations) confirm() int64 {
	n := max(c.flushedAt-c.settled, 0)
	c.settled += n
	return n
}
