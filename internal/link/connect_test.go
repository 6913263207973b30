package link_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/testserver"
)

// Connect says why it reached no server.
func TestConnectSaysWhyItFailed(t *testing.T) {
	t.Parallel()
	addr := closedPort(t)
	nc, err := link.Connect("nats://"+addr, testTimeout)
	if nc != nil || !errors.Is(err, nats.ErrNoServers) {
		t.Fatalf("got %v, %v, want %v", nc, err, nats.ErrNoServers)
	}
	if !strings.Contains(err.Error(), "dial tcp "+addr) {
		t.Errorf("got %v, without the reason", err)
	}
}

// Connect finds the one of several servers that runs.
func TestConnectToOneOfTwo(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, testserver.WithPort)
	nc, err := link.Connect("nats://"+closedPort(t)+","+s.ClientURL(), testTimeout, nats.DontRandomize())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if nc.ConnectedUrl() != s.ClientURL() {
		t.Errorf("it is connected to %s, want %s", nc.ConnectedUrl(), s.ClientURL())
	}
}
