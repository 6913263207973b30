package link

import (
	"net"
	"time"
)

// Guarded is nc as the dialer hands it out, for tests.
func Guarded(nc net.Conn, stall time.Duration) net.Conn { return guarded(nc, stall) }
