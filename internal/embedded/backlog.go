package embedded

import (
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus/internal/limits"
)

// The server has one limit, MaxPending, for what may wait for a client, and it is high for
// the sake of the bus itself. Of other clients each could take that much memory without a
// right but to subscribe. So backlog has limits of its own for them.
const (
	maxClientBacklog = 64 << 20  // bytes that wait for one client; the default of nats-server
	minTotalBacklog  = 64 << 20  // bytes that wait for all clients, in a process with little memory
	maxTotalBacklog  = 256 << 20 // and in one with much

	backlogEvery  = 100 * time.Millisecond // how often the clients are looked at
	backlogHurry  = 10 * time.Millisecond  // the same while a quarter of the total is used
	backlogEffort = 20                     // a look may take one part in so many of the time
)

// backlog disconnects clients that read too slowly: each one for which more than perClient
// bytes wait, and while more than total bytes wait for all, the one for which most wait. The
// connection of the bus does not count. Its goroutine ends with Stop.
type backlog struct {
	server    *server.Server
	logger    hclog.Logger
	perClient int64
	total     int64
	stop      chan struct{}
	done      chan struct{}
}

// watchBacklog starts the watch of the clients. It returns nil if the server has none but the
// bus.
func (s *Server) watchBacklog(opts *server.Options) *backlog {
	if s.Alone {
		return nil
	}
	b := &backlog{server: s.server, logger: s.config.Logger, stop: make(chan struct{}), done: make(chan struct{})}
	b.perClient, b.total = backlogLimits(limits.Memory(), opts.MaxPending)
	go b.run()
	return b
}

// backlogLimits returns the limits for a process that may use so much memory. A MaxPending
// that WithServerOptions has set is the limit for a client.
func backlogLimits(memory, pending int64) (perClient, total int64) {
	total = min(max(memory/16, minTotalBacklog), maxTotalBacklog)
	if pending != maxPending {
		return pending, max(total, pending)
	}
	return maxClientBacklog, total
}

// run looks at the clients until the end.
func (b *backlog) run() {
	defer close(b.done)
	timer := time.NewTimer(backlogEvery)
	defer timer.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-timer.C:
			began := time.Now()
			pause := backlogEvery
			if b.look() > b.total/4 {
				pause = backlogHurry
			}
			timer.Reset(max(pause, backlogEffort*time.Since(began)))
		}
	}
}

// look disconnects the clients that are too slow, and returns how many bytes wait for the
// others.
func (b *backlog) look() int64 {
	if b.server.NumClients() <= 1 && b.server.NumLeafNodes() == 0 {
		return 0 // only the bus
	}
	list, err := b.server.Connz(&server.ConnzOptions{Sort: server.ByPending})
	if err != nil {
		return 0
	}
	var waiting int64
	for _, c := range list.Conns {
		waiting += outside(c)
	}
	for _, c := range list.Conns { // the slowest first
		bytes := outside(c)
		if bytes == 0 || bytes <= b.perClient && waiting <= b.total {
			continue
		}
		b.disconnect(c)
		waiting -= bytes
	}
	return waiting
}

// outside returns how many bytes wait for a client. For the bus itself, whose connection has
// no port, it returns 0.
func outside(c *server.ConnInfo) int64 {
	if c.Port == 0 {
		return 0
	}
	return int64(c.Pending)
}

// disconnect closes the connection of a client.
func (b *backlog) disconnect(c *server.ConnInfo) {
	b.logger.Warn("disconnected a client that reads too slowly", "address", net.JoinHostPort(c.IP, strconv.Itoa(c.Port)),
		"client", c.Cid, "waiting", c.Pending, "limit", b.perClient, "limit_of_all", b.total)
	_ = b.server.DisconnectClientByID(c.Cid) // it may be gone
}

// end ends the watch. b may be nil.
func (b *backlog) end() {
	if b != nil {
		close(b.stop)
		<-b.done
	}
}
