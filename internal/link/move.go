package link

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Target is a server, or several of one cluster, that a link can lead to.
type Target struct {
	URL       string                   // server URL(s), comma separated; EmbeddedURL for the one that InProcess dials
	InProcess func() (net.Conn, error) // dials a server in this process; nil if there is none
	Access    []nats.Option            // how the link identifies itself, and TLS; replaces those of the former target
}

// pointTo cuts the connection, leads it to a target, and waits until that answers. When ctx
// ends first it returns why it did not. Lead calls it.
func (l *Link) pointTo(ctx context.Context, to Target) error {
	move := l.dialer.cut()
	var err error
	if l.nc.IsConnected() { // to the former server, which may announce addresses of its own
		err = l.disconnect()
	}
	if err == nil {
		err = l.nc.SetServerPool(strings.Split(to.URL, ","))
	}
	if err == nil {
		l.dialer.lead(to)
		err = l.awaitMove(ctx, move)
	}
	return err
}

// awaitMove has nats.go dial, and waits until the server to which the move leads has answered a ping.
// When ctx ends first it cuts the connection: nats.go holds its lock during a handshake, also with a
// server that says nothing.
func (l *Link) awaitMove(ctx context.Context, move int) error {
	abandoned := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(abandoned)
		l.dialer.abandon(move)
	})
	// An abandon that runs after the next lead would have the link dial nobody for ever.
	intact := sync.OnceValue(func() bool {
		if stop() {
			return true
		}
		<-abandoned
		return false
	})
	defer intact()
	if !l.nc.IsConnected() || !l.dialer.arrived(move) { // else it would cut the new connection, and that would count as a loss
		if err := l.nc.ForceReconnect(); err != nil { // skips the pause after an attempt in vain
			return err
		}
	}
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 5*time.Millisecond) {
		switch {
		case l.nc.IsClosed():
			return nats.ErrConnectionClosed
		case l.nc.IsConnected() && l.dialer.arrived(move) && l.Flush(ctx, l.dialer.timeout) == nil:
			l.register(l.nc)
			if !intact() {
				return context.Cause(ctx)
			}
			return nil
		}
		select {
		case <-time.After(pause): // nats.go announces states, but may drop them where nobody reads
		case <-l.dialer.alive.Done():
			return errAborted
		case <-ctx.Done():
			return l.dialer.failed.explain(context.Cause(ctx))
		}
	}
}

var (
	errNotEmbedded = errors.New("no server is embedded in this process")
	errCut         = errors.New("the connection is being moved to another server")
)

// cut has the dialer dial nobody until lead, and drop what it is dialling. It returns the
// number of the move.
func (d *dialer) cut() (move int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutLocked()
	d.failed.keep(nil)
	return d.move
}

func (d *dialer) cutLocked() {
	d.move++
	d.isCut = true
	if d.stopDial != nil {
		d.stopDial()
	}
}

// abandon cuts and drops the connection, unless a later move has begun.
func (d *dialer) abandon(move int) {
	d.mu.Lock()
	current := d.move == move
	if current {
		d.cutLocked()
	}
	c := d.latest
	d.mu.Unlock()
	if current && c != nil {
		_ = c.Close()
	}
}

// drop closes the latest connection, which may be in its handshake.
func (d *dialer) drop() {
	d.mu.Lock()
	c := d.latest
	d.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}

// lead ends cut. From now on the dialer dials to, with its access.
func (d *dialer) lead(to Target) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inProcess, d.isCut = to.InProcess, false
	d.access = to.replaceAccess
}

// arrived reports whether the latest connection was dialled since a move began, which is
// the latest one.
func (d *dialer) arrived(move int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.move == move && d.latest != nil && d.latest.move == move && !d.latest.ended.Load()
}
