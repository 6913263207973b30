package switchover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/switchover"
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

// A preflight that takes too long says so once, and not of everything that was not asked. If its caller ends it,
// nothing is in the way.
func TestPreflightEnds(t *testing.T) {
	t.Parallel()
	for name, home := range map[string]*Home{"there": nil, "home": {Streams: func() []string { return []string{"S"} }}} {
		s := newRun(t)
		s.newStream(t, 1)
		s.Home = home
		ctx, cancel := context.WithCancelCause(t.Context())
		all, _ := s.listHere(ctx)
		cancel(errPreflight)
		s.infos = all
		s.checkMayTake(ctx, "S")
		s.consumersHere(ctx, "S")
		s.checkReplicas(ctx)
		s.checkLimits(ctx)
		s.checkPermissions(ctx)
		if want := []switchover.Obstacle{{Reason: "not all questions were answered within 30s", Remedy: silentRemedy}}; !slices.Equal(s.obstacles, want) {
			t.Errorf("%s: the obstacles are %v", name, s.obstacles)
		}
	}
	s := newRun(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if err := s.preflight(ctx); !errors.Is(err, why) {
		t.Errorf("preflight = %v", err)
	}
}

// What earlier switches have left and may not be deleted is named with the permission that is missing, at once.
func TestLeftoversThatMayNotBeDeleted(t *testing.T) {
	t.Parallel()
	s := newRun(t)
	s.targetJS = denied(t, "$JS.API.STREAM.DELETE.>")
	s.Target = s.targetJS.Conn()
	s.Target.SetErrorHandler(s.onRefusal)
	s.Stale, s.Left, s.stale, s.left = "id", "id", []string{"A"}, []string{"B"}
	began := time.Now()
	s.removeLeftovers(t.Context())
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if len(s.obstacles) != 2 {
		t.Fatalf("the obstacles are %v", s.obstacles)
	}
	for i, what := range []string{"the copies that an earlier switch left cannot be deleted: [A]", "what the switch home has left there cannot be deleted: [B]"} {
		subject := fmt.Sprintf("$JS.API.STREAM.DELETE.%c", 'A'+i)
		if o := s.obstacles[i]; o.Reason != what+fmt.Sprintf(": its user may not publish to %q", subject) || !strings.HasPrefix(o.Remedy, "let that user publish to "+subject+"; in all it needs") {
			t.Errorf("an obstacle is %v", o)
		}
	}
}

// Consumers that cannot be listed are an obstacle, with what to look at.
func TestLimitsOfAStreamThatIsGone(t *testing.T) {
	t.Parallel()
	s := newRun(t)
	gone := &jetstream.StreamInfo{Config: jetstream.StreamConfig{Name: "GONE"}, State: jetstream.StreamState{Consumers: 1}}
	s.checkStreamLimits(t.Context(), gone, &accountLimits{MaxAckPending: 1})
	if len(s.obstacles) != 1 || s.obstacles[0].Stream != "GONE" || !strings.HasPrefix(s.obstacles[0].Reason, "its consumers cannot be listed: nats: API error: code=404") ||
		!strings.HasPrefix(s.obstacles[0].Remedy, "see what the log of the embedded server says") {
		t.Errorf("the obstacles are %v", s.obstacles)
	}
}

// A stream that comes home and has no leader is an obstacle. Others only get a warning.
func TestSilentStreamsAtTheOldServers(t *testing.T) {
	t.Parallel()
	s := &run{Config: Config{Home: &Home{Streams: func() []string { return []string{"S"} }}}}
	s.foundSilent([]string{"OTHER", "S"})
	want := []switchover.Obstacle{{Stream: "S", Reason: "it cannot be looked up at the old servers: no leader answers for [S]", Remedy: leaderlessRemedy}}
	if !slices.Equal(s.obstacles, want) || len(s.report.Warnings) != 1 || !strings.Contains(s.report.Warnings[0], "which stay: [OTHER]") {
		t.Errorf("the obstacles are %v, the warnings %q", s.obstacles, s.report.Warnings)
	}
}
