package intake

import (
	"errors"
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

// A copy that cannot be read is followed until it is gone, also when its original becomes a dead letter,
// or the copy that is to return was removed. Else it would be held for ever.
func TestKeptCopiesAreFollowedUntilTheyAreGone(t *testing.T) {
	t.Parallel()
	why := &UnreadableError{Sequence: 7, Key: tokenOfK}
	for name, settle := range map[string]func(t *testing.T, f *followers){
		"its original is dead": func(t *testing.T, f *followers) {
			f.keepLocked(why)
			original := fromSource(0, 7)
			f.mustAdmit(t, original, true)
			original.Stored.Dead, original.Stored.HoldID = errors.New("no luck"), 1 // it is not held any more
			if err := f.putDead(tokenOfK, *original); err != nil {
				t.Error(err)
			}
		},
		"its copy is removed": func(t *testing.T, f *followers) {
			kf := f.beginLocked("k")
			f.putLocked(kf, *fromSource(0, 7))
			f.storedLocked(tokenOfK, 7)
			next, _ := f.beginReturn(tokenOfK)
			f.keepLocked(why)
			f.endReturn(tokenOfK, next, []bool{false}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newTestFollowers(nil)
			d := f.k.d
			d.order, d.authority = f.k, sole{d}
			d.cfg.Settling = func(wire.Delivery, string) func(error) { return func(error) {} }
			d.cfg.WriteDeadLetter = func(wire.Delivery) error { return nil }
			settle(t, f)
			if kf := f.keys[tokenOfK]; kf == nil || len(kf.all) != 1 || kf.all[0].state != returned || !kf.all[0].unread || kf.returning != 1 {
				all, states := f.have()
				t.Fatalf("the followers are %v %q", all, states)
			}
			f.mustAdmit(t, fromSource(0, 8), true)
			f.goneLocked(tokenOfK, 7)
			if kf := f.keys[tokenOfK]; kf == nil || kf.returning != 0 || kf.unread != 0 {
				t.Errorf("left is %+v", kf)
			}
			f.mustHave(t, "p", 8)
		})
	}
}
