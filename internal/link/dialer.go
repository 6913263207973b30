package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// errAborted is the error of dialling after abort.
var errAborted = errors.New("the connection was aborted")

// reconnectLimit is how long a dial may take, and how long a handshake, when the link was connected
// before: nats.go holds its lock meanwhile, so whoever publishes waits.
const reconnectLimit = 5 * time.Second

// dialer reaches the embedded server in this process and others by network. As
// nats.Connect takes no context, the dialer ends it: while the link connects for
// the first time, the end of ctx stops dialling and closes what was dialled.
// Later abort does.
type dialer struct {
	timeout time.Duration
	alive   context.Context // ends with abort
	kill    context.CancelFunc
	failed  failure

	mu        sync.Mutex
	inProcess func() (net.Conn, error)
	nc        *nats.Conn                // whose options access changes; nil during the first connect
	access    func(*nats.Options) error // to be called before the next attempt; nil if nothing changes
	move      int                       // how often Cut and Lead have cut the connection
	isCut     bool                      // dial nobody for now
	stopDial  func()                    // ends the attempt that is under way; nil before the first one
	ctx       context.Context           // of the first connect; nil afterwards
	stops     []func() bool             // each keeps the end of ctx from closing a connection
	latest    *conn                     // what was dialled last
	broke     bool                      // abort closed a connection that was in use
}

func newDialer(ctx context.Context, c Config) *dialer {
	d := &dialer{inProcess: c.InProcess, timeout: c.Timeout, ctx: ctx}
	d.alive, d.kill = context.WithCancel(context.Background())
	return d
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, addr string) (net.Conn, error) {
	d.mu.Lock()
	if d.isCut {
		d.mu.Unlock()
		return nil, errCut
	}
	if err := d.changeAccessLocked(); err != nil {
		d.mu.Unlock()
		d.failed.keep(err)
		return nil, err
	}
	first, inProcess, move := d.ctx, d.inProcess, d.move
	ctx := first
	if ctx == nil {
		ctx = d.alive
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.stopDial = cancel
	d.mu.Unlock()
	limit := d.limit(addr, first == nil)
	nc, err := d.dial(ctx, network, addr, inProcess, limit)
	if err != nil {
		d.failed.keep(err)
		return nil, err
	}
	least := minStall
	if addr == embeddedAddr {
		least = embeddedStall
	}
	c := guarded(nc, max(d.timeout, least))
	c.handshake = limit
	c.move = move
	c.heard.on.Store(first != nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.alive.Err() != nil {
		_ = c.Close()
		return nil, errAborted
	}
	if d.move != move {
		_ = c.Close()
		return nil, errCut // it leads to the former server
	}
	d.latest = c
	if first != nil {
		d.stops = append(d.stops, context.AfterFunc(first, func() { _ = c.Close() }))
	}
	return c, nil
}

// limit is how long a dial may take, and how long a handshake. The server in this process may wait for
// the disk.
func (d *dialer) limit(addr string, again bool) time.Duration {
	if again && addr != embeddedAddr {
		return min(d.timeout, reconnectLimit)
	}
	return d.timeout
}

// changeAccessLocked changes how the connection identifies itself, if it leads elsewhere
// now. nats.go dials with the lock of the connection, so nobody reads the options meanwhile.
func (d *dialer) changeAccessLocked() error {
	if d.access == nil || d.nc == nil {
		return nil
	}
	err := d.access(&d.nc.Opts)
	if err == nil {
		d.access = nil
	}
	return err
}

// dial dials one address. Only connections to the server in this process read ahead, so it
// follows the connection when Lead moves it.
func (d *dialer) dial(ctx context.Context, network, addr string, inProcess func() (net.Conn, error), limit time.Duration) (net.Conn, error) {
	if addr != embeddedAddr {
		return (&net.Dialer{Timeout: limit}).DialContext(ctx, network, addr)
	}
	if inProcess == nil {
		return nil, errNotEmbedded
	}
	nc, err := inProcess()
	if err != nil {
		return nil, err
	}
	return readAhead(nc), nil
}

// connected ends the first connect. It reports whether that was before the end
// of its context; if not, the connection has been or is being closed.
func (d *dialer) connected(nc *nats.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx, d.nc = nil, nc
	d.latest.heard.stop()
	intact := true
	for _, stop := range d.stops {
		intact = stop() && intact
	}
	d.stops = nil
	return intact
}

// abort closes the connection under whoever uses it, and dials no more.
func (d *dialer) abort() {
	d.kill()
	d.mu.Lock()
	c := d.latest
	d.broke = d.broke || c != nil && !c.ended.Load()
	d.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}

// broken reports whether abort closed a connection that was in use.
func (d *dialer) broken() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broke
}
