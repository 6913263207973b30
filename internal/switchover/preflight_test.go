package switchover

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Probe streams of a switch that was killed are deleted, and nothing else is.
func TestForgottenProbes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		age  time.Duration
		msgs uint64
		want bool
	}{
		{"omnibus-room-abc", time.Hour, 0, true},
		{"omnibus-probe-abc", time.Hour, 0, true},
		{"omnibus-room-abc", time.Second, 0, false}, // of a switch that is under way
		{"omnibus-room-abc", time.Hour, 1, false},
		{"orders", time.Hour, 0, false},
	} {
		info := &jetstream.StreamInfo{Config: jetstream.StreamConfig{Name: tc.name}, Created: time.Now().Add(-tc.age), State: jetstream.StreamState{Msgs: tc.msgs}}
		if forgotten(info) != tc.want {
			t.Errorf("%s, %v old, %d messages: got %t", tc.name, tc.age, tc.msgs, !tc.want)
		}
	}
}
