package intake

import (
	"fmt"
	"time"

	"github.com/omnibus-go/bus/internal/plural"
)

// startBarrier is closed while the server may have delivered messages that are not here.
// While it is closed no message with a key begins: an earlier one of its key may be
// with a process that died, lost on the way, or with somebody else. These messages are
// the delivery gap.
//
// The server numbers the deliveries of a consumer. A number out of the row means that
// one has gone elsewhere, or that the server has forgotten some. That closes the barrier.
// What the server says of the consumer opens it: when no more messages are out than
// are here. A delivery counts as here only if the server knew of it when it said so.
//
// States: closed ⇄ open. The zero value is closed. Pure, and guarded by Durable.mu.
type startBarrier struct {
	open     bool
	last     uint64    // number of the latest delivery
	from     uint64    // the first of the unbroken row of deliveries that ends with last
	missing  int       // messages that are out and not here, by the latest answer
	extra    int       // so many of them have not been asked for since
	more     int       // to ask for besides, as others came instead of those
	since    time.Time // when it was closed
	ask      time.Time // when to ask the server again
	pause    time.Duration
	reported error // why it is closed, when that has been reported
}

const (
	firstAsk = 10 * time.Millisecond // between two questions; it doubles from there
	lastAsk  = time.Second

	// reportGapAfter is how long a barrier may be closed before that is reported.
	reportGapAfter = 5 * time.Second
)

// close closes the barrier and has the server asked at once.
func (b *startBarrier) close(now time.Time) {
	if b.open || b.since.IsZero() {
		b.open, b.since = false, now
	}
	b.missing, b.extra, b.more, b.ask, b.pause = 0, 0, 0, now, firstAsk
}

// delivered records the delivery with a number. It returns false when that is not the
// one after the last.
func (b *startBarrier) delivered(number uint64) (inRow bool) {
	inRow = number == b.last+1
	if !inRow {
		b.from = number
	}
	b.last = number
	return inRow
}

// answer takes what the server said: the number of the last delivery it had made, and
// how many messages were out then; here is how many of them are here. It returns
// true when that opens the barrier.
func (b *startBarrier) answer(now time.Time, delivered uint64, out, here int) bool {
	if b.open {
		return false
	}
	b.missing = max(out-here, 0)
	b.extra = b.missing
	if b.missing > 0 || b.last > delivered && b.from > delivered+1 {
		b.ask, b.pause = now.Add(b.pause), min(2*b.pause, lastAsk)
		return false
	}
	if b.last <= delivered {
		b.last, b.from = delivered, delivered+1
	}
	b.open, b.more, b.since, b.reported = true, 0, time.Time{}, nil
	return true
}

// arrived records that a message has come again which was not here. It returns true
// when that may have been the last one that was missing.
func (b *startBarrier) arrived(now time.Time) bool {
	if b.open || b.missing == 0 {
		return false
	}
	b.missing--
	if b.missing == 0 {
		b.more, b.ask, b.pause = 0, now, firstAsk
		return true
	}
	return false
}

// cameAgain records that a message has come which is here already. After a while without
// signals the server redelivers all that is out, in order, whatever it receives
// then: those that are here as well as those that are missing. So two are asked for in
// the place of each, and what is asked for doubles with each round.
func (b *startBarrier) cameAgain() {
	if !b.open && b.missing > 0 {
		b.more += 2
	}
}

// wants is how many messages to ask for, when so many have been asked for and not come
// yet. It forgets that number: the caller asks. It does not ask for a few beside many.
func (b *startBarrier) wants(asked int) int {
	wants := max(b.extra-asked, 0)
	if b.more > asked/2 {
		wants += b.more
		b.more = 0
	}
	if wants > 0 {
		b.extra = 0
	}
	return wants
}

// wantsMore reports whether wants would return any.
func (b *startBarrier) wantsMore(asked int) bool { return b.extra > asked || b.more > asked/2 }

// mustAsk is whether it is time to ask the server. It is asked again after a while
// where no answer comes.
func (b *startBarrier) mustAsk(now time.Time) bool {
	if b.open || now.Before(b.ask) {
		return false
	}
	b.ask = now.Add(lastAsk)
	return true
}

// overdue returns why the barrier is closed, once when that has lasted for long.
func (b *startBarrier) overdue(now time.Time, ackWait time.Duration) error {
	if b.open || b.reported != nil || now.Sub(b.since) < reportGapAfter {
		return nil
	}
	b.reported = &DeliveryGap{Missing: b.missing, AckWait: ackWait}
	return b.reported
}

// DeliveryGap is why messages with keys wait: others that came before them are not here.
type DeliveryGap struct {
	Missing int           // how many
	AckWait time.Duration // after which the server redelivers them here, if they are with nobody
}

// Error says what it waits for.
func (e *DeliveryGap) Error() string {
	if e.Missing == 0 {
		return "to keep the order of each key it waits for the server to say which messages are out"
	}
	return fmt.Sprintf("to keep the order of each key, it waits for %s that another process holds, or held when it died; the server redelivers %v after the last in-progress signal", plural.Of(e.Missing, "message", "messages"), e.AckWait)
}
