package link

import (
	"net"
	"time"
)

// Guarded is nc as the dialer hands it out, for tests.
func Guarded(nc net.Conn, stall time.Duration) net.Conn { return guarded(nc, stall) }

// ReadAhead is nc, to the server in this process, as the dialer hands it on.
func ReadAhead(nc net.Conn) net.Conn { return readAhead(nc) }

// ReadsAhead reports whether the latest connection of l reads ahead.
func (l *Link) ReadsAhead() bool {
	l.dialer.mu.Lock()
	defer l.dialer.mu.Unlock()
	_, ok := l.dialer.latest.Conn.(*ahead)
	return ok
}

// BeginRequest registers a request, and gives it up.
func (l *Link) BeginRequest() error {
	number, _, _, err := l.requests.begin(l.nc, false)
	l.requests.remove(number)
	return err
}

// LimitedHandshake is nc as the dialer hands it out when the link was connected before, for tests.
func LimitedHandshake(nc net.Conn) net.Conn {
	c := guarded(nc, minStall)
	c.handshake = reconnectLimit
	return c
}
