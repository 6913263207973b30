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
type ledger struct {
	handed  int64 // messages handed to the connection
	settled int64 // of those, from the first one: confirmed, or given up as lost
	asked   int64 // what handed was at the latest flush
	asking  bool  // a flush is under way
	answer  chan error

	connected bool
	states    <-chan nats.Status
}

// newLedger begins to follow l. forget ends that.
func newLedger(l *link.Link) (g ledger, forget func()) {
	nc := l.Conn()
	states := nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	return ledger{answer: make(chan error, 1), states: states, connected: nc.IsConnected()},
		func() { nc.RemoveStatusListener(states) }
}

// unsettled is the number of messages of which nothing is known.
func (g *ledger) unsettled() int { return int(g.handed - g.settled) }

// note takes a new state of the connection and returns how many messages may be
// lost with it.
func (g *ledger) note(s nats.Status) (lost int) {
	was := g.connected
	g.connected = s == nats.CONNECTED
	if g.connected || !was && s != nats.CLOSED {
		return 0
	}
	lost = g.unsettled()
	g.settled = g.handed
	return lost
}

// confirm settles what was handed over before the latest flush, and returns how
// many messages that are.
func (g *ledger) confirm() int64 {
	n := max(g.asked-g.settled, 0)
	g.settled += n
	return n
}
