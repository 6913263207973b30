package switchover

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// A client that reads everything at the target answers nothing. Nothing that the switch tries
// waits for it.
func TestPermissionsBesideASilentReader(t *testing.T) {
	t.Parallel()
	s := newRun(t)
	if _, err := s.Target.Subscribe(">", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Target.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	s.Home = new(Home)
	if s.checkPermissions(t.Context()); len(s.obstacles) > 0 {
		t.Errorf("the obstacles are %v", s.obstacles)
	}
}
