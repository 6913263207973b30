package intake

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// What cannot be read takes no room for other messages, however often it is delivered.
func TestKeptMessagesTakeNoRoom(t *testing.T) {
	t.Parallel()
	f := newTestFollowers(nil)
	d := f.k.d
	d.order, d.held = f.k, make(map[position]hold)
	for _, p := range d.pullers {
		p.d = d
	}
	p := d.pullers[1]
	del := &wire.Delivery{Stored: &wire.Stored{Source: 1, SourceSequence: 9, Sequence: 7, Key: "k", Time: time.Unix(1, 0)}}
	m := &nats.Msg{Subject: "x", Data: make([]byte, 1<<20)}
	if fresh, _ := p.hold(del, m); !fresh || p.heldBytes < 1<<20 {
		t.Fatalf("fresh %t, %d bytes", fresh, p.heldBytes)
	}
	p.keepLocked(positionOf(del))
	for range 2 {
		if p.heldBytes != 0 || p.here() != 0 {
			t.Errorf("it counts as %d bytes and %d messages", p.heldBytes, p.here())
		}
		if fresh, _ := p.hold(del, m); fresh {
			t.Error("it is taken for another message")
		}
	}
	p.letGo(d.held[positionOf(del)])
	if p.heldBytes != 0 || p.kept != 0 || p.held != 0 {
		t.Errorf("%d bytes, %d kept, %d held at the end", p.heldBytes, p.kept, p.held)
	}
}

// When a follower does not exist any more, all copies of it that are kept are let go.
func TestKeptCopiesOfAFollowerThatIsGone(t *testing.T) {
	t.Parallel()
	d := newTestFollowers(nil).k.d
	for position, sequence := range []uint64{7, 8, 7} {
		why := &UnreadableError{Key: tokenOfK, Sequence: sequence}
		d.kept = append(d.kept, kept{del: wire.Delivery{Stored: &wire.Stored{SourceSequence: uint64(position), HoldID: 1}}, why: why})
	}
	d.dropKept(tokenOfK, 7)
	if len(d.kept) != 1 || d.kept[0].why.Sequence != 8 {
		t.Errorf("%d are kept", len(d.kept))
	}
}
