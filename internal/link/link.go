package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/serverversion"
	"github.com/omnibus-go/bus/internal/wire"
)

// EmbeddedURL is the made-up address of the server in this process. The dialer
// maps it to the in-process connection; the reserved top-level domain makes
// sure that it never leaves the machine.
const EmbeddedURL = "nats://embedded.invalid:4222"

const embeddedAddr = "embedded.invalid:4222"

// Config says where a link leads and whom it tells what happens to it.
type Config struct {
	URL       string                   // server URL(s), comma separated; EmbeddedURL for the one in this process
	Name      string                   // shown by the server as the client's name
	InProcess func() (net.Conn, error) // dials the embedded server; nil if there is none
	Inbox     string                   // the prefix of the inboxes; empty: that of nats.go, "_INBOX"
	Access    []nats.Option            // credentials and TLS
	Timeout   time.Duration            // of one connection attempt; and for a peer that takes nothing, see conn

	Disconnected func(err error)
	Reconnected  func()
	Closed       func()
	Failed       func(subject string, err error) // asynchronous errors nobody else took

	Trusted bool // the server refuses this connection nothing, so nothing is watched for refusals
}

// Link is the connection of one bus. Safe for concurrent use.
type Link struct {
	*Gate
	nc         *nats.Conn
	dialer     *dialer
	refusals   refusals
	denials    denials
	requests   requests
	sending    Gate // calls of Publish are inside; Cut holds it
	maxPayload atomic.Int64
	server     atomic.Pointer[serverversion.Server]
	watchers   sync.Map // *nats.Subscription → func(error)
	reconnects hooks
	losses     hooks

	moving chan struct{} // has one from Cut to the end of Lead
	target Target        // where it leads; of whoever moves the link
	quiet  atomic.Bool   // a cut is not reported, nor that it is over
}

// hooks are the functions to call after each change of the connection.
type hooks struct {
	mu   sync.Mutex
	next int
	fns  map[int]func()
}

// Dial connects, trying once per server of the URL until ctx ends. The
// connection it returns comes back by itself for as long as it lives.
func Dial(ctx context.Context, c Config) (*Link, error) {
	l := &Link{Gate: NewGate(), dialer: newDialer(ctx, c), moving: make(chan struct{}, 1), target: Target{c.URL, c.InProcess, c.Access}}
	l.denials.trusted.Store(c.Trusted)
	nc, err := nats.Connect(c.URL, append(l.options(c), c.Access...)...)
	if err == nil && l.dialer.connected(nc) {
		l.nc = nc
		l.register(nc)
		return l, nil
	}
	if nc != nil {
		nc.Close()
	}
	if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) {
		<-ctx.Done() // its timer may be late, and the attempt have ended at the same moment
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, l.dialer.failed.explainFirst(named(err))
}

// A peer that is gone without a word is noticed after pingEvery times one more than
// pingsOut: nats.go's own six minutes are too long for a service, and for the
// tables of most routers on the way.
const (
	pingEvery = 25 * time.Second
	pingsOut  = 2
)

// options returns the options of the connection. Dial calls it once.
func (l *Link) options(c Config) []nats.Option {
	return []nats.Option{
		func(o *nats.Options) error { o.InboxPrefix = c.Inbox; return nil },
		nats.Name(c.Name),
		nats.SetCustomDialer(l.dialer),
		nats.SkipHostLookup(), // the dialer does it, and can be told to stop
		nats.Timeout(c.Timeout),
		nats.FlusherTimeout(0), // conn bounds each write by itself
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(pingsOut),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 250*time.Millisecond),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if cut := err == nil && l.quiet.Load(); !cut {
				if err == nil {
					l.requests.lose(true) // ForceReconnect of the program, or Lead
				}
				c.Disconnected(err)
			}
			l.losses.run()
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			l.denials.reset()
			l.register(nc)
			if !l.quiet.Swap(false) {
				c.Reconnected()
			}
			l.reconnects.run()
		}),
		nats.ClosedHandler(func(*nats.Conn) {
			l.requests.end()
			c.Closed()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) { l.asyncError(c, s, err) }),
	}
}

func (l *Link) asyncError(c Config, s *nats.Subscription, err error) {
	if s == nil {
		l.refusal(c, err)
		return
	}
	if w, ok := l.watchers.Load(s); ok {
		w.(func(error))(err)
		return
	}
	c.Failed(s.Subject, err)
}

// Conn returns the underlying connection.
func (l *Link) Conn() *nats.Conn { return l.nc }

// register keeps what the server says of itself when it is connected. The first connect,
// each reconnect and Lead call it.
func (l *Link) register(nc *nats.Conn) {
	l.maxPayload.Store(nc.MaxPayload())
	if version := nc.ConnectedServerVersion(); version != "" { // empty: the connection is lost again
		s := serverversion.Of(version)
		l.server.Store(&s)
	}
}

// Server returns what can be expected of the server: of the one that the link is connected
// to, or was last.
func (l *Link) Server() serverversion.Server {
	if s := l.server.Load(); s != nil {
		return *s
	}
	return serverversion.Of("")
}

// MaxPayload is the server's limit in bytes for one message with its header.
func (l *Link) MaxPayload() int { return int(l.maxPayload.Load()) }

// ErrDisconnected is returned by Flush when the connection was lost meanwhile, and by
// Publish and Request when it was found lost: then the message was not sent.
var ErrDisconnected = errors.New("the connection was lost")

// Flush waits until the server has processed everything sent before the call.
// Without a deadline in ctx it gives up after fallback.
func (l *Link) Flush(ctx context.Context, fallback time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err // nats.go might hear the answer first
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, fallback)
		defer cancel()
	}
	err := l.nc.FlushWithContext(ctx)
	if errors.Is(err, nats.ErrConnectionClosed) && !l.nc.IsClosed() {
		return ErrDisconnected // nats.go says "closed" of a connection that comes back, too
	}
	return err
}

// Publish hands one message to the connection. It does not pass the gate. It waits while a Cut
// is being made.
func (l *Link) Publish(o *wire.Out) error {
	if err := l.sending.Enter(context.Background()); err != nil {
		return err
	}
	defer l.sending.Leave()
	if len(o.Header) == 0 {
		if o.Reply == "" {
			return l.nc.Publish(o.Subject, o.Data)
		}
		return l.nc.PublishRequest(o.Subject, o.Reply, o.Data)
	}
	return l.nc.PublishMsg(&nats.Msg{Subject: o.Subject, Reply: o.Reply, Header: nats.Header(o.Header), Data: o.Data})
}

// Watch has fn called with the asynchronous errors of s (a slow consumer,
// missing permission). The function it returns ends that.
func (l *Link) Watch(s *nats.Subscription, fn func(error)) (stop func()) {
	l.watchers.Store(s, fn)
	return func() { l.watchers.Delete(s) }
}

// OnReconnect has fn called after each reconnect, on a goroutine of the
// connection; it must not block. The function it returns ends that.
func (l *Link) OnReconnect(fn func()) (stop func()) { return l.reconnects.add(fn) }

func (h *hooks) add(fn func()) (remove func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fns == nil {
		h.fns = make(map[int]func())
	}
	id := h.next
	h.next++
	h.fns[id] = fn
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.fns, id)
	}
}

func (h *hooks) run() {
	h.mu.Lock()
	fns := make([]func(), 0, len(h.fns))
	for _, fn := range h.fns {
		fns = append(fns, fn)
	}
	h.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
}

// Abort breaks the connection for good under whoever waits for a peer that takes
// nothing: their calls fail. Close must follow.
func (l *Link) Abort() { l.dialer.abort() }

// Aborted reports whether Abort broke a connection that was in use: what had not
// been flushed is lost then, and nats.go does not count it as buffered.
func (l *Link) Aborted() bool { return l.dialer.broken() }

// Close closes the connection. What is still in its buffer and was not flushed
// is lost.
func (l *Link) Close() {
	l.nc.Close()
	l.requests.end()
}
