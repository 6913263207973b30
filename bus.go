package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/registry"
	"github.com/omnibus-go/bus/internal/telemetry"
)

// Version is the version of the library.
const Version = "0.1.0"

// Bus is a typed event bus: publish, subscribe, request, durable streams. New
// makes one with a server inside this process, Connect one that uses an existing
// server. All methods and the functions that take a bus are safe for concurrent
// use.
type Bus struct {
	cfg       *config
	engine    *engine // nil when the server is elsewhere
	link      *link.Link
	outlet    *outlet.Outlet
	async     *outlet.Async
	registry  registry.Registry
	format    *format
	js        jetstream.JetStream
	services  *services
	captures  captures
	deadlines deadlines
	tel       *telemetry.Telemetry
	counters  telemetry.Bus
	retired   retired
	life      life
}

// The stages in which the members of a bus end: handlers of messages may still
// need the responders.
const (
	stageSubscribers = iota
	stageResponders
	stageServices
)

// engine is the embedded server as the rest of the library sees it, so that only
// New links it.
type engine struct {
	dial      func() (net.Conn, error)
	clientURL func() string
	health    func() error // nil: accepting, and JetStream is healthy
	stop      func() error // stops the server, then gives the store directory up
}

// life is how far a bus is with its end.
//
// States: open → stopping → closed. The first Shutdown does the work on its own
// goroutine; later ones wait for done.
type life struct {
	once     sync.Once
	stopping chan struct{} // closed when the first Shutdown begins
	done     chan struct{} // closed when it has ended
	err      error         // its result, valid when done is closed
	closing  atomic.Bool   // the connection is being closed by us
	handlers context.Context
	cancel   context.CancelCauseFunc
}

func (l *life) begin() {
	l.stopping = make(chan struct{})
	l.done = make(chan struct{})
	ctx, cancel := context.WithCancelCause(context.Background())
	l.handlers, l.cancel = &handlerContext{Context: ctx, stopping: l.stopping}, cancel
}

// Connect returns a bus on the existing server at url ("nats://host:4222",
// several separated by commas). It tries each once, until ctx ends; afterwards
// the connection comes back by itself whenever it is lost.
//
// Errors: *OptionError (all of them, joined), *ConnectError.
func Connect(ctx context.Context, url string, opts ...ConnectOption) (*Bus, error) {
	if ctx == nil {
		return nil, noContext("Connect")
	}
	c := newConfig()
	c.url = url
	c.apply(asOptions(opts))
	c.url, c.storeDir, c.listen = url, "", "" // FromEnv may have set them
	c.checkURL("Connect", url)
	if err := c.check(); err != nil {
		return nil, err
	}
	return connect(ctx, c)
}

func asOptions(opts []ConnectOption) []Option {
	all := make([]Option, len(opts))
	for i, o := range opts {
		if o != nil {
			all[i] = o
		}
	}
	return all
}

// connect makes a bus on the server that c.url names.
func connect(ctx context.Context, c *config) (*Bus, error) {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	b, err := open(ctx, c, nil)
	if err != nil {
		return nil, &ConnectError{URL: redact(c.url), Err: err}
	}
	c.logger.Info("connected", "server", b.link.Describe())
	return b, nil
}

// open makes the bus on a server that runs: e, or the one at c.url.
func open(ctx context.Context, c *config, e *engine) (*Bus, error) {
	b := &Bus{cfg: c, engine: e}
	b.life.begin()
	var err error
	if b.format, err = newFormat(c, &b.counters); err != nil {
		return nil, err
	}
	b.tel, err = telemetry.New(telemetry.Config{TracerProvider: c.tracer, MeterProvider: c.meter,
		Propagator: c.propagator, Version: Version, BusName: c.name})
	if err != nil {
		return nil, err
	}
	if b.link, err = link.Dial(ctx, b.linkConfig()); err != nil {
		return nil, err
	}
	if b.js, err = jetstream.New(b.link.Conn()); err != nil {
		b.link.Close()
		return nil, err
	}
	b.outlet = outlet.New(b.link, b.tel, &b.counters)
	b.async = outlet.NewAsync(b.outlet, c.async.Size, !c.async.NoWait, func(m *outlet.Message, err error) {
		b.report(Event{Kind: EventPublishFailed, Subject: m.Subject, Err: translate(err)})
	})
	b.services = newServices(b)
	return b, nil
}

func (b *Bus) linkConfig() link.Config {
	lc := link.Config{
		URL:     b.cfg.url,
		Name:    b.cfg.name,
		Access:  b.cfg.access,
		Timeout: b.cfg.timeout,
		Disconnected: func(err error) {
			if b.life.closing.Load() {
				return
			}
			b.counters.Disconnects.Add(1)
			b.report(Event{Kind: EventDisconnected, Err: err})
		},
		Reconnected: func() {
			b.counters.Reconnects.Add(1)
			b.tel.Reconnected()
			b.report(Event{Kind: EventReconnected})
		},
		Closed: func() {
			if !b.life.closing.Load() {
				b.report(Event{Kind: EventConnectionClosed, Err: ErrClosed})
			}
		},
		Failed: func(subject string, err error) {
			b.report(Event{Kind: EventServerError, Subject: subject, Err: err})
		},
	}
	if b.engine != nil {
		lc.URL, lc.InProcess = link.EmbeddedURL, b.engine.dial
	}
	return lc
}

// usable returns an error unless b can be used.
func (b *Bus) usable(call string) error {
	if b == nil {
		return &ArgumentError{Func: call, Arg: "bus", Reason: "is nil; did New or Connect fail?"}
	}
	if !b.link.Open() {
		return ErrClosed
	}
	return nil
}

// Conn returns the bus's connection, for what this library does not offer. It is
// the caller's part not to close it. In testing/synctest bubbles use only its
// functions that take a context: the others share timers with the whole process.
func (b *Bus) Conn() *nats.Conn { return b.link.Conn() }

// JetStream returns the client of the server's streams, for what this library
// does not offer.
func (b *Bus) JetStream() jetstream.JetStream { return b.js }

// ClientURL returns where other NATS clients reach the server: the port of
// WithListen, or the server's URL of an external one. It is empty when there is
// no port.
func (b *Bus) ClientURL() string {
	if b.engine != nil {
		return b.engine.clientURL()
	}
	return b.link.Conn().ConnectedUrlRedacted()
}

// Flush waits until the server has processed everything that was published
// before, that of PublishAsync only as far as it has been sent. Errors:
// ErrTimeout, ErrClosed, ErrDisconnected.
func (b *Bus) Flush(ctx context.Context) error {
	if err := b.callable(ctx, "Flush"); err != nil {
		return err
	}
	return translate(b.link.Flush(ctx, b.cfg.timeout))
}

// Done returns a channel that is closed when the bus has ended.
func (b *Bus) Done() <-chan struct{} { return b.life.done }

// Close is Shutdown with the bus's drain timeout.
func (b *Bus) Close() error { return b.Shutdown(context.Background()) }

// errDrainTimeout is the cause of the end of a handler's context when the bus
// could not wait longer.
var errDrainTimeout = errors.New("bus: the drain timeout is used up")

// Shutdown ends the bus in order: no new subscriptions; messages that have
// arrived are handled, and messages of streams that wait are given back; then
// no more publishing, the buffer of PublishAsync is sent, the connection closed,
// the embedded server stopped, and the store directory released. Handlers may
// publish and request until the end. When ctx ends first (the drain timeout, if
// it has no deadline), the handlers' contexts end and the rest is done at once.
//
// It returns what was left behind, *DrainError and *UnsentError, joined, or nil.
// Further calls wait for the first one, until their ctx ends. Called from a
// handler of this bus it does not wait for that handler.
func (b *Bus) Shutdown(ctx context.Context) error {
	if b == nil {
		return nil
	}
	if ctx == nil {
		return noContext("Shutdown")
	}
	ctx, cancel := b.cfg.withDrainTimeout(dispatch.FromCaller(ctx))
	defer cancel()
	first := false
	b.life.once.Do(func() { first = true })
	if first {
		b.life.err = b.shutdown(ctx)
		close(b.life.done)
		return b.life.err
	}
	if b.runsCaller(ctx) {
		return nil // the first call waits for this handler: waiting for it would stall both
	}
	select {
	case <-b.life.done:
		return b.life.err
	case <-ctx.Done():
		return fmt.Errorf("%w: the bus is still stopping", ended(ctx))
	}
}

func (b *Bus) shutdown(ctx context.Context) error {
	close(b.life.stopping)
	errs := []error{b.registry.Close(ctx)}
	b.life.cancel(errDrainTimeout)
	if n := b.async.Drain(ctx); n > 0 {
		errs = append(errs, &UnsentError{Messages: n})
	}
	_ = b.link.Shut(ctx) // who is still inside gets ErrClosed from the connection
	errs = append(errs, b.lastFlush(ctx))
	b.life.closing.Store(true)
	b.link.Close()
	if b.engine != nil {
		errs = append(errs, b.engine.stop())
	}
	return errors.Join(errs...)
}

// lastFlush makes sure that what was published reached the server.
func (b *Bus) lastFlush(ctx context.Context) error {
	if nc := b.link.Conn(); !nc.IsConnected() {
		if n, err := nc.Buffered(); err == nil && n > 0 {
			return fmt.Errorf("%w: the %d bytes buffered since then are lost", ErrDisconnected, n)
		}
		return nil
	}
	if err := b.link.Flush(ctx, b.cfg.timeout); err != nil {
		return fmt.Errorf("bus: the last messages may not have reached the server: %w", translate(err))
	}
	return nil
}

// runsCaller reports whether the caller that ctx notes is a handler of b.
func (b *Bus) runsCaller(ctx context.Context) bool {
	for _, m := range b.registry.Members() {
		if h, ok := m.(interface{ runsCaller(context.Context) bool }); ok && h.runsCaller(ctx) {
			return true
		}
	}
	return false
}

// withDrainTimeout gives ctx the drain timeout where it has no deadline.
func (c *config) withDrainTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.drainTimeout)
}
