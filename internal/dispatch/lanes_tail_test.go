package dispatch

import "testing"

func TestLanesTakeTail(t *testing.T) {
	l := NewLanes(false)
	for seq := range uint64(6) {
		if out := l.Enter(keyed("a", seq+1)); out != (seq == 0) {
			t.Fatalf("message %d is out: %v", seq+1, out)
		}
	}
	tail := l.TakeTail("a", 2)
	if len(tail) != 3 || tail[0].Stored.Sequence != 4 || tail[2].Stored.Sequence != 6 {
		t.Errorf("the tail is %v", tail)
	}
	if msgs, _ := l.Backlog(); msgs != 2 || l.Behind("a") != 2 {
		t.Errorf("%d messages wait, %d behind", msgs, l.Behind("a"))
	}
	if tail := l.TakeTail("a", 2); tail != nil {
		t.Errorf("the tail is %v", tail)
	}
	if d, ok := l.Next("a"); !ok || d.Stored.Sequence != 2 {
		t.Errorf("the next one is %v", d)
	}
}

// Of a lane with none out the first message stays: it is the next one.
func TestLanesTakeTailOfClosedLanes(t *testing.T) {
	l := NewLanes(true)
	l.Enter(keyed("a", 1))
	l.Enter(keyed("a", 2))
	if tail := l.TakeTail("a", 0); len(tail) != 1 || tail[0].Stored.Sequence != 2 {
		t.Errorf("the tail is %v", tail)
	}
	if tail := l.TakeTail("b", 0); tail != nil {
		t.Errorf("the tail of no lane is %v", tail)
	}
}
