package testserver

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
)

// triedPorts counts what FreePorts has tried, and firstPort is where it begins in this process.
var (
	triedPorts atomic.Uint32
	firstPort  = rand.Uint32N(20_000)
)

// FreePorts returns ports of 127.0.0.1 that nobody uses. They lie below those that systems give to
// outgoing connections: a connection could take the port of a server that is down for a moment.
// Even a client that dials that server can, since such a connection may have both ends on one port.
func FreePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	for tries := 0; len(ports) < n; tries++ {
		port := 12_000 + (firstPort+triedPorts.Add(1))%20_000
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil && tries < 1000 {
			continue
		}
		if err != nil {
			t.Fatalf("testserver: %v", err)
		}
		_ = l.Close()
		ports = append(ports, int(port))
	}
	return ports
}
