package embedded

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
)

func TestBacklogLimits(t *testing.T) {
	t.Parallel()
	const mib, gib = 1 << 20, 1 << 30
	for _, tc := range []struct{ memory, pending, perClient, total int64 }{
		{memory: 128 * mib, pending: maxPending, perClient: 64 * mib, total: 64 * mib},
		{memory: 2 * gib, pending: maxPending, perClient: 64 * mib, total: 128 * mib},
		{memory: 64 * gib, pending: maxPending, perClient: 64 * mib, total: 256 * mib},
		{memory: 64 * gib, pending: mib, perClient: mib, total: 256 * mib},
		{memory: gib, pending: gib, perClient: gib, total: gib},
	} {
		if perClient, total := backlogLimits(tc.memory, tc.pending); perClient != tc.perClient || total != tc.total {
			t.Errorf("%+v: got %d and %d", tc, perClient, total)
		}
	}
}

// Clients that do not read are disconnected, beginning with the slowest, until the others stay
// below the limits. The connection of the bus stays.
func TestBacklogOfClientsThatDoNotRead(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, tc := range map[string]struct {
		perClient, total int64
		disconnected     int
	}{
		"below the limits":   {1000 * mib, 1000 * mib, 0},
		"each above its own": {mib, 1000 * mib, 3},
		"together too many":  {1000 * mib, 45 * mib, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startListening(t)
			bus, err := nats.Connect("", nats.InProcessServer(s.server), nats.NoReconnect())
			if err != nil {
				t.Fatal(err)
			}
			defer bus.Close()
			var clients []net.Conn
			for range 3 {
				clients = append(clients, subscribeRaw(t, s))
			}
			payload := make([]byte, mib)
			for range 40 {
				if err := bus.Publish("t", payload); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := bus.FlushWithContext(ctx); err != nil {
				t.Fatal(err)
			}
			b := &backlog{server: s.server, logger: hclog.NewNullLogger(), perClient: tc.perClient, total: tc.total}
			if waiting := b.look(); waiting > tc.total {
				t.Errorf("%d bytes wait", waiting)
			}
			awaitClients(t, s, 1+len(clients)-tc.disconnected)
			if !bus.IsConnected() {
				t.Error("the bus was disconnected")
			}
		})
	}
}

// awaitClients waits until the server has n clients.
func awaitClients(t *testing.T, s *Server, n int) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); s.server.NumClients() != n; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%d clients are left, want %d", s.server.NumClients(), n)
		}
	}
}

func startListening(t *testing.T) *Server {
	t.Helper()
	c := &Config{Listen: Address{Text: "127.0.0.1:0", Host: "127.0.0.1"}, MaxPayload: 2 << 20, Logger: hclog.NewNullLogger()}
	s, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// subscribeRaw returns the connection of a client that has subscribed to everything, and that
// reads no more.
func subscribeRaw(t *testing.T, s *Server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(s.ClientURL(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, "CONNECT {\"verbose\":false}\r\nSUB > 1\r\nPING\r\n"); err != nil {
		t.Fatal(err)
	}
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(fmt.Errorf("no PONG: %w", err))
		}
		if strings.HasPrefix(line, "PONG") {
			return c
		}
	}
}
