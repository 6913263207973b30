package switchover

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/intake"
)

// A message that was delivered again is pending by a number between those of its neighbours, not by
// that of its latest delivery. Then the floor never passes what is out.
func TestStateOfWhatWasDeliveredAgain(t *testing.T) {
	t.Parallel()
	d := &jetstream.ConsumerInfo{Delivered: jetstream.SequenceInfo{Consumer: 12, Stream: 9}, AckFloor: jetstream.SequenceInfo{Consumer: 3, Stream: 3}}
	state := stateOf(d, []intake.Holding{
		{Sequence: 9, Delivery: 11, Deliveries: 1}, {Sequence: 5, Delivery: 10, Deliveries: 2}, {Sequence: 4, Delivery: 12, Deliveries: 3},
		{Sequence: 6, Delivery: 6, Deliveries: 1}, {Sequence: 8, Delivery: 9, Deliveries: 2}, {Sequence: 3, Delivery: 3, Deliveries: 1},
	}, 9)
	want := map[uint64][2]uint64{4: {4, 2}, 5: {5, 1}, 6: {6, 0}, 8: {7, 1}, 9: {11, 0}}
	if state.Delivered != (sequences{12, 9}) || state.AckFloor != (sequences{3, 3}) || len(state.Pending) != len(want) {
		t.Fatalf("the state is %+v", state)
	}
	for seq, w := range want {
		if got := [2]uint64{state.Pending[seq].Sequence, state.Redelivered[seq]}; got != w {
			t.Errorf("message %d is pending by %v, and not by %v", seq, got, w)
		}
	}
}
