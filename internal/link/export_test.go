package link

import (
	"net"
	"time"
)

// Guarded is nc as the dialer hands it out, for tests.
func Guarded(nc net.Conn, stall time.Duration) net.Conn { return guarded(nc, stall) }

// ReadAhead is nc, to the server in this process, as the dialer hands it on.
func ReadAhead(nc net.Conn) net.Conn { return readAhead(nc) }
