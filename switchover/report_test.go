package switchover_test

import (
	"testing"
	"time"

	"github.com/omnibus-go/bus/switchover"
)

// The text of a report says what became of the switch.
func TestReportString(t *testing.T) {
	t.Parallel()
	const streams = ": 1 stream, 2 messages, 3 replicas"
	for name, tc := range map[string]struct {
		dryRun, failed bool
		want           string
	}{
		"switched":       {false, false, "switched to nats://a:1" + streams + "; 5 bytes sent, publishers waited 4ms\nwarning: w"},
		"failed":         {false, true, "failed to switch to nats://a:1" + streams + "; 5 bytes sent, publishers waited 4ms\nwarning: w"},
		"dry run":        {true, false, "can switch to nats://a:1" + streams + "\nwarning: w"},
		"failed dry run": {true, true, "cannot switch to nats://a:1" + streams + "\nwarning: w"},
	} {
		r := switchover.Report{DryRun: tc.dryRun, Failed: tc.failed, Target: "nats://a:1", Replicas: 3, Streams: []string{"S"}, Messages: 2, Bytes: 5, Waited: 4 * time.Millisecond, Warnings: []string{"w"}}
		if got := r.String(); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	live := switchover.Report{DryRun: true, Target: "nats://a:1", Streams: []string{"A", "B"}, Live: []string{"B"}}
	if got, want := live.String(), "can switch to nats://a:1: 2 streams (1 while publishers go on), 0 messages"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := (switchover.Report{Failed: true}).String(), "failed to switch"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
