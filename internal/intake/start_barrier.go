package intake

import (
	"fmt"
	"time"
)

// barrier tells whether all that a consumer has given out, to whomever, is here or done.
// While it is shut no message with a key begins: an earlier one of its key may be
// with a process that died, lost on the way, or with somebody else.
//
// The server numbers the deliveries of a consumer. A number out of the row means that
// one has gone elsewhere, or that the server has forgotten some. That shuts the barrier.
// What the server says of the consumer opens it: when no more messages are out than
// are here. A delivery counts as here only if the server knew of it when it said so.
//
// States: shut ⇄ open. The zero value is shut. Pure, and not safe for concurrent use.
type startBarrier struct {
	open     bool
	last     uint64    // number of the latest delivery
	from     uint64    // the first of the unbroken row of deliveries that ends with last
	missing  int       // messages that are out and not here, by the latest answer
	extra    int       // so many of them have not been asked for since
	more     int       // to ask for besides, as others came instead of those
	since    time.Time // when it was shut
	ask      time.Time // when to ask the server again
	pause    time.Duration
	reported error // why it is shut, when that has been reported
}

const (
	firstAsk = 10 * time.Millisecond // between two questions; it doubles from there
	lastAsk  = time.Second

	// reportGapAfter is how long a barrier may be shut before that is reported.
	reportGapAfter = 5 * time.Second
)

// shut shuts the barrier and has the server asked at once.
func (g *startBarrier) shut(now time.Time) {
	if g.open || g.since.IsZero() {
		g.open, g.since = false, now
	}
	g.missing, g.extra, g.more, g.ask, g.pause = 0, 0, 0, now, firstAsk
}

// delivered notes the delivery with a number. It returns false when that is not the
// one after the last.
func (g *startBarrier) delivered(number uint64) (inRow bool) {
	inRow = number == g.last+1
	if !inRow {
		g.from = number
	}
	g.last = number
	return inRow
}

// answer heeds what the server said: the number of the last delivery it had made, and
// how many messages were out then; here is how many of them are here. It returns
// true when that opens the barrier.
func (g *startBarrier) answer(now time.Time, delivered uint64, out, here int) bool {
	if g.open {
		return false
	}
	g.missing = max(out-here, 0)
	g.extra = g.missing
	if g.missing > 0 || g.last > delivered && g.from > delivered+1 {
		g.ask, g.pause = now.Add(g.pause), min(2*g.pause, lastAsk)
		return false
	}
	if g.last <= delivered {
		g.last, g.from = delivered, delivered+1
	}
	g.open, g.more, g.since, g.reported = true, 0, time.Time{}, nil
	return true
}

// arrived notes that a message has come again which was not here. It returns true
// when that may have been the last one that was missing.
func (g *startBarrier) arrived(now time.Time) bool {
	if g.open || g.missing == 0 {
		return false
	}
	g.missing--
	if g.missing == 0 {
		g.more, g.ask, g.pause = 0, now, firstAsk
		return true
	}
	return false
}

// cameAgain notes that a message has come which is here already. After a while without
// signals the server gives out again all that is out, in order, whatever it hears
// then: those that are here as well as those that are missing. So two are asked for in
// the place of each, and what is asked for doubles with each round.
func (g *startBarrier) cameAgain() {
	if !g.open && g.missing > 0 {
		g.more += 2
	}
}

// wants is how many messages to ask for, when so many have been asked for and not come
// yet, and forgets it: it counts on being heeded. It does not ask for a few beside many.
func (g *startBarrier) wants(asked int) int {
	wants := max(g.extra-asked, 0)
	if g.more > asked/2 {
		wants += g.more
		g.more = 0
	}
	if wants > 0 {
		g.extra = 0
	}
	return wants
}

// mustAsk is whether it is time to ask the server. It is asked again after a while
// where no answer comes.
func (g *startBarrier) mustAsk(now time.Time) bool {
	if g.open || now.Before(g.ask) {
		return false
	}
	g.ask = now.Add(lastAsk)
	return true
}

// complain returns why the barrier is shut, once when that has lasted for long.
func (g *startBarrier) complain(now time.Time, ackWait time.Duration) error {
	if g.open || g.reported != nil || now.Sub(g.since) < reportGapAfter {
		return nil
	}
	g.reported = &DeliveryGap{Missing: g.missing, AckWait: ackWait}
	return g.reported
}

// DeliveryGap is why messages with keys wait: others that came before them are not here.
type DeliveryGap struct {
	Missing int           // how many
	AckWait time.Duration // after which the server gives them here, if they are with nobody
}

// Error says what it waits for.
func (e *DeliveryGap) Error() string {
	if e.Missing == 0 {
		return "to keep the order of each key it waits for the server to say which messages are out"
	}
	return fmt.Sprintf("to keep the order of each key it waits for %d messages that were given to a process that died, or that still runs; the server gives them back %v after it last heard of them", e.Missing, e.AckWait)
}
