package streamdef

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// Two removals of the oldest messages overlap; others may be of the same messages or not.
func TestRemovalsAreJoined(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name              string
		a, b              Removal
		overlapping, plus Removal
	}{
		{"nothing", Removal{}, Removal{}, Removal{}, Removal{}},
		{"one", Removal{Messages: 3}, Removal{}, Removal{Messages: 3}, Removal{Messages: 3}},
		{"both", Removal{Messages: 3, Bytes: 1}, Removal{Messages: 2, Bytes: 9}, Removal{Messages: 3, Bytes: 9}, Removal{Messages: 3, Bytes: 9, More: true}},
		{"one unknown", Removal{Messages: 3}, Removal{More: true}, Removal{Messages: 3, More: true}, Removal{Messages: 3, More: true}},
	} {
		for range 2 {
			if got := tc.a.overlapping(tc.b); got != tc.overlapping {
				t.Errorf("%s: overlapping: got %+v", tc.name, got)
			}
			if got := tc.a.plus(tc.b); got != tc.plus {
				t.Errorf("%s: plus: got %+v", tc.name, got)
			}
			tc.a, tc.b = tc.b, tc.a
		}
	}
}

func TestRemovalByCount(t *testing.T) {
	t.Parallel()
	state := &jetstream.StreamState{Msgs: 10, Bytes: 1000}
	for _, tc := range []struct {
		name string
		want jetstream.StreamConfig
		got  Removal
	}{
		{"no limits", jetstream.StreamConfig{MaxMsgs: -1, MaxBytes: -1}, Removal{}},
		{"all fit", jetstream.StreamConfig{MaxMsgs: 10, MaxBytes: 1000}, Removal{}},
		{"messages", jetstream.StreamConfig{MaxMsgs: 4}, Removal{Messages: 6}},
		{"bytes", jetstream.StreamConfig{MaxBytes: 900}, Removal{Messages: 1, Bytes: 100, More: true}},
		{"both", jetstream.StreamConfig{MaxMsgs: 4, MaxBytes: 900}, Removal{Messages: 6, Bytes: 100, More: true}},
		{"a stream that refuses new messages", jetstream.StreamConfig{MaxMsgs: 4, Discard: jetstream.DiscardNew}, Removal{}},
	} {
		if got := byCount(state, &tc.want); got != tc.got {
			t.Errorf("%s: got %+v, want %+v", tc.name, got, tc.got)
		}
	}
}
