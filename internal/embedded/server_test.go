package embedded

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
)

// A restart that nobody waits for any more when all is prepared starts nothing, and gives the directory up.
func TestRestartThatIsGivenUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	dir, why, starts := t.TempDir(), errors.New("given up"), 0
	c := &Config{StoreDir: dir, HomeID: "id", Logger: hclog.NewNullLogger(), Customize: []func(*server.Options){func(*server.Options) {
		if starts++; starts == 2 {
			cancel(why)
		}
	}}}
	s, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := s.Restart(ctx)
	if fresh != nil || !errors.Is(err, why) {
		t.Errorf("Restart = %v, %v", fresh, err)
	}
	if fresh != nil {
		s = fresh
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	s, err = Start(&Config{StoreDir: dir, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}
