package bus

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
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
	window    *outlet.Window
	registry  lifecycle.Registry
	format    *format
	js        jetstream.JetStream
	services  *services
	captures  captures
	deadlines deadlines
	tel       *telemetry.Telemetry
	unobserve func() // ends the observation of consumers
	counters  telemetry.Bus
	retired   retired
	keyed     sync.Map  // durableName → *Consumer, see Consumer.takeKeys
	memory    sync.Once // guards the note that streams are in memory
	state     busState
}

// engine is the embedded server as the rest of the library sees it, so that only
// New links it.
type engine struct {
	dial      func() (net.Conn, error)
	clientURL func() string
	health    func() error // nil: accepting, and JetStream is healthy
	stop      func() error // stops the server, then gives the store directory up
}

// Connect returns a bus on the existing server at url ("nats://host:4222",
// several separated by commas). It tries each once, until ctx ends, and does not wait
// for a server that starts later; afterwards the connection comes back by itself
// whenever it is lost.
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
		return nil, &ConnectError{URL: link.Redact(c.url), Err: translate(err)}
	}
	c.logger.Info("connected", "server", b.link.Describe())
	return b, nil
}

// open makes the bus on a server that runs: e, or the one at c.url.
func open(ctx context.Context, c *config, e *engine) (*Bus, error) {
	b := &Bus{cfg: c, engine: e}
	b.state.begin()
	b.format = newFormat(c, &b.counters)
	var err error
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
	b.async = outlet.NewAsync(b.outlet, outlet.AsyncConfig{
		Size: c.async.Size,
		Wait: !c.async.NoWait,
		Failed: func(m *outlet.Message, err error) {
			b.report(Event{Kind: EventPublishFailed, Subject: m.Subject, Err: translate(err)})
		},
		Lost: func(n int) { b.report(Event{Kind: EventPublishFailed, Err: &UnsentError{Messages: n}}) },
	})
	b.window = outlet.NewWindow(b.outlet, c.window)
	b.services = newServices(b)
	if err := b.observeConsumers(); err != nil {
		b.link.Close()
		return nil, err
	}
	return b, nil
}

func (b *Bus) linkConfig() link.Config {
	lc := link.Config{
		URL:     b.cfg.url,
		Name:    b.cfg.name,
		Access:  b.cfg.access,
		Timeout: b.cfg.timeout,
		Disconnected: func(err error) {
			if b.state.closing.Load() {
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
			if !b.state.closing.Load() {
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

// inMemory reports whether the bus's own server has no directory for its streams.
func (b *Bus) inMemory() bool { return b.engine != nil && b.cfg.storeDir == "" }

// alone reports whether no other process can work on the bus's server.
func (b *Bus) alone() bool { return b.cfg.alone }

// noteMemory says once, when the first stream is declared, that it will not last.
func (b *Bus) noteMemory() {
	if b.inMemory() {
		b.memory.Do(func() {
			b.cfg.logger.Info("streams are kept in memory and end with the process; WithStoreDir keeps them on disk")
		})
	}
}

// usable returns an error unless b can be used.
func (b *Bus) usable(call string) error {
	if b.none() {
		reason := "is nil; did New or Connect fail?"
		if b != nil {
			reason = "is empty; New and Connect make one"
		}
		return &ArgumentError{Func: call, Arg: "bus", Reason: reason}
	}
	if !b.link.Open() {
		return &callError{call, ErrClosed}
	}
	return nil
}

// none reports whether b was not made by New or Connect. It has ended.
func (b *Bus) none() bool { return b == nil || b.link == nil }

// Conn returns the bus's connection, for what this library does not offer. It is
// the caller's part not to close it. In testing/synctest bubbles use only its
// functions that take a context: the others share timers with the whole process. An empty bus has none.
func (b *Bus) Conn() *nats.Conn {
	if b.none() {
		return nil
	}
	return b.link.Conn()
}

// JetStream returns the client of the server's streams, for what this library
// does not offer. An empty bus has none.
func (b *Bus) JetStream() jetstream.JetStream {
	if b.none() {
		return nil
	}
	return b.js
}

// ClientURL returns where other NATS clients reach the server: the port of
// WithListen, or the server's URL of an external one. It is empty when there is
// no port.
func (b *Bus) ClientURL() string {
	if b.none() {
		return ""
	}
	if b.engine != nil {
		return b.engine.clientURL()
	}
	return b.link.URL()
}

// Flush waits until the server has processed everything that was published
// before, also by PublishAsync: what that could not send is reported as an event. It
// waits for the outcomes of PublishToAsync, too, which only their futures tell.
// Errors: ErrTimeout, ErrClosed, ErrDisconnected.
func (b *Bus) Flush(ctx context.Context) error {
	if err := b.callable(ctx, "Flush"); err != nil {
		return err
	}
	ctx, cancel := b.cfg.withTimeout(ctx)
	defer cancel()
	if err := b.async.Flush(ctx); err != nil && !errors.Is(err, outlet.ErrEnded) { // then Shutdown sends the rest
		return b.of("Flush", "", err)
	}
	if err := b.window.Flush(ctx); err != nil {
		return b.of("Flush", "", err)
	}
	return b.of("Flush", "", b.link.Flush(ctx, b.cfg.timeout))
}
