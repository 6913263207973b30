package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/internal/capacity"
	"github.com/omnibus-go/bus/internal/capture"
	"github.com/omnibus-go/bus/internal/consumer"
	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/discovery"
	"github.com/omnibus-go/bus/internal/jsapi"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/serverversion"
	"github.com/omnibus-go/bus/internal/storedir"
	"github.com/omnibus-go/bus/internal/streamdef"
	engine "github.com/omnibus-go/bus/internal/switchover"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/stats"
)

// Version is the version of the library.
const Version = "0.1.0"

// Bus is a typed event bus: publish, subscribe, request, durable streams. New makes one
// with a server inside this process. Connect makes one on an existing server. All methods,
// and the functions that take a bus, are safe for concurrent use.
type Bus struct {
	cfg        *config
	core       *core.Core
	local      atomic.Pointer[localServer] // nil when the server is elsewhere
	startHome  startHome                   // nil where there is nothing to go home to
	async      *outlet.Async
	window     *outlet.Window
	registry   lifecycle.Registry
	calls      link.Gate // calls of a few requests are inside; a switch holds it
	format     *payload.Format
	services   *discovery.Service
	captures   *capture.Index
	streams    *streamdef.Declarer
	unobserve  func() // ends the observation of consumers
	retired    retired
	keyHolders consumer.Holders
	memory     sync.Once                     // guards the note that streams are in memory
	switching  lifecycle.Mutex               // held by SwitchTo
	known      sync.Map                      // names of the streams that this bus has declared or looked up
	undo       engine.Undo                   // of a switch home that has failed
	leftBehind atomic.Pointer[storedir.Move] // a move that left copies at its target, of a bus in memory
	state      busState
	capacity   *capacity.Watch
	lost       atomic.Pointer[StoreError] // why nothing is stored any more; nil while the store directory is there
}

// localServer is the embedded server as the rest of the package sees it. It consists of
// functions, so that only programs that call New link nats-server.
type localServer struct {
	dial      func() (net.Conn, error)
	clientURL func() string
	health    func() error // nil: the server accepts connections, and JetStream is healthy
	stop      func() error // stops the server and releases the store directory

	checkStore func(maxAge time.Duration) error // nil: the store directory is there, as it was found at most maxAge ago
	alone      bool                             // no client outside this process can reach the server
	single     bool                             // the server is connected to no other server
	clients    func() (now int, ever uint64)    // that are connected, and that ever were
	describe   func(except ...uint64) []string  // the clients that are connected, without those with these IDs
	access     []nats.Option                    // how the bus identifies itself
	domain     string                           // the JetStream domain
	link       func() (*health.Link, error)     // the leaf link, nil without one, and why another edge is mixed up with this one
	dir        *storedir.Dir                    // nil in memory

	restart func(context.Context) (*localServer, error) // starts another one in its place, in the middle of a switch home
	attach  func(*Bus) error                            // reports to the bus of the server what happens to it

	// inReserve is core.Core.InReserve.
	inReserve func(ctx context.Context, size int, half bool, fn func() error) error
	// usage is how much of the limits of memory and disk is in use.
	usage func() []storageUse
}

// Connect returns a bus on the existing server at url: "nats://host:4222", or several URLs
// separated by commas. It tries each URL once, until ctx ends. It does not wait for a server
// that starts later. A connection that is lost later comes back by itself.
//
// Errors: *OptionError (all of them, joined), *ConnectError; with an *UnsupportedError in it
// for a server older than nats-server 2.10.
func Connect(ctx context.Context, url string, opts ...ConnectOption) (*Bus, error) {
	if ctx == nil {
		return nil, noContext("Connect")
	}
	c := newConfig()
	c.server.url = url
	c.apply(asOptions(opts))
	c.server = serverConfig{url: url} // FromEnv may have set more
	c.checkURL("Connect", url)
	if err := c.check(); err != nil {
		return nil, err
	}
	return connect(ctx, c, nil)
}

// asOptions returns opts as options of New. Nil ones stay nil.
func asOptions(opts []ConnectOption) []Option {
	all := make([]Option, len(opts))
	for i, o := range opts {
		if o != nil {
			all[i] = o
		}
	}
	return all
}

// connect makes a bus on an existing server.
func connect(ctx context.Context, c *config, home startHome) (*Bus, error) {
	ctx, cancel := (&core.Core{Timeout: c.timeout}).WithTimeout(ctx)
	defer cancel()
	b, err := open(ctx, c, nil, home)
	if err != nil {
		return nil, &ConnectError{URL: link.Redact(c.server.url), Err: connectionError(err, c.identity())}
	}
	c.logger.Info("connected", "server", b.core.Link.Describe(), "version", b.core.Link.Server().Text)
	return b, nil
}

// startHome starts the embedded server for a switch home with an ID.
type startHome func(id string) (*localServer, error)

// open makes the bus on a running server: the local one, or the one at the URL where local
// is nil.
func open(ctx context.Context, c *config, local *localServer, home startHome) (*Bus, error) {
	b := &Bus{cfg: c, startHome: home}
	b.local.Store(local)
	b.capacity = capacity.New(func(err error) { b.report(event.Event{Kind: event.StoreFull, Err: b.storeFullError(err)}) })
	b.state.begin()
	if err := b.openCore(ctx); err != nil {
		return nil, err
	}
	b.format = newFormat(c, &b.core.Counters)
	b.async = outlet.NewAsync(b.core.Outlet, outlet.AsyncConfig{
		Size: c.publish.bufferSize,
		Wait: !c.publish.bufferNoWait,
		Failed: func(m *outlet.Message, err error) {
			b.report(event.Event{Kind: event.PublishFailed, Subject: m.Subject, Err: translate(err)})
		},
		Lost: func(n int) { b.report(event.Event{Kind: event.PublishFailed, Err: &UnsentError{Messages: n}}) },
	})
	b.window = outlet.NewWindow(b.core.Outlet, c.publish.window)
	b.registry.SetSenders(b.async, b.core.Outlet)
	b.services = newDiscovery(b)
	b.retired.registry = &b.registry
	var err error
	if b.unobserve, err = b.retired.observe(b.core.Telemetry); err != nil {
		b.core.Link.Close()
		return nil, err
	}
	return b, nil
}

// openCore connects to the server.
func (b *Bus) openCore(ctx context.Context) (err error) {
	c := b.cfg
	b.core = &core.Core{
		Logger: c.logger, Report: b.report,
		Timeout: c.timeout, DrainTimeout: c.drainTimeout,
		Handlers: b.state.handlers, Stopping: b.state.stopping,
	}
	local := b.local.Load()
	b.core.InMemory.Store(local != nil && c.server.storeDir == "")
	b.core.Alone.Store(local != nil && local.alone)
	b.core.InReserve = b.inReserve
	b.core.Telemetry, err = telemetry.New(telemetry.Config{TracerProvider: c.telemetry.tracer, MeterProvider: c.telemetry.meter,
		Propagator: c.telemetry.propagator, Version: Version, BusName: c.name})
	if err != nil {
		return err
	}
	if b.core.Link, err = link.Dial(ctx, b.linkConfig()); err != nil {
		return err
	}
	if b.core.JetStream, err = jsapi.New(b.core.Link, local != nil && c.server.cluster != nil, b.finishRemoval); err != nil {
		b.core.Link.Close()
		return err
	}
	if err = b.core.Link.Server().CheckSupported(); err != nil {
		b.core.Link.Close()
		return err
	}
	b.core.Outlet = outlet.New(b.core.Link, b.core.Telemetry, &b.core.Counters)
	b.captures, b.streams = capture.New(b.core), streamdef.New(b.core)
	return nil
}

// linkConfig says how to connect, and what the connection reports. Its functions run on
// goroutines of nats.go.
func (b *Bus) linkConfig() link.Config {
	lc := link.Config{
		URL:     b.cfg.server.url,
		Name:    b.cfg.name,
		Inbox:   b.cfg.inbox,
		Access:  b.cfg.auth.options,
		Timeout: b.core.Timeout,
		Disconnected: func(err error) {
			if b.state.closing.Load() {
				return
			}
			b.core.Counters.Disconnects.Add(1)
			b.report(event.Event{Kind: event.Disconnected, Err: err})
		},
		Reconnected: func() {
			b.core.Counters.Reconnects.Add(1)
			b.core.Telemetry.Reconnected()
			b.report(event.Event{Kind: event.Reconnected})
			if err := b.core.Link.Server().CheckSupported(); err != nil {
				b.report(event.Event{Kind: event.ServerError, Err: translate(err)})
			}
		},
		Closed: func() {
			if !b.state.closing.Load() {
				b.report(event.Event{Kind: event.ConnectionClosed, Err: ErrClosed})
			}
		},
		Failed: func(subject string, err error) {
			kind := event.ServerError
			if refused, ok := errors.AsType[*link.RefusedError](err); ok && refused.Publish {
				kind = event.PublishFailed
			}
			b.report(event.Event{Kind: kind, Subject: subject, Err: translate(err)})
		},
	}
	if local := b.local.Load(); local != nil {
		lc.URL, lc.InProcess, lc.Trusted = link.EmbeddedURL, local.dial, true
	}
	return lc
}

// inReserve is core.Core.InReserve, for as long as the server is in this process.
func (b *Bus) inReserve(ctx context.Context, size int, half bool, fn func() error) error {
	if local := b.local.Load(); local != nil {
		return local.inReserve(ctx, size, half, fn)
	}
	return fn()
}

// logMemoryOnce logs, when the first stream is declared, that streams are in memory.
func (b *Bus) logMemoryOnce() {
	if b.core.InMemory.Load() {
		b.memory.Do(func() {
			b.cfg.logger.Info("streams are kept in memory and end with the process; WithStoreDir keeps them on disk")
		})
	}
}

// usable returns an error if b was not made by New or Connect, or is closed.
func (b *Bus) usable(call string) error {
	if b.isZero() {
		reason := "is nil; did New or Connect fail?"
		if b != nil {
			reason = "is empty; New and Connect make one"
		}
		return badArgument(call, "bus", reason)
	}
	if !b.core.Link.Open() {
		return &opError{call, ErrClosed}
	}
	return nil
}

// checkServer returns an *UnsupportedError if the server is too old for a call.
func (b *Bus) checkServer(f serverversion.Feature) error {
	return translate(b.core.Link.Server().Check(f))
}

// isZero reports whether b is nil or the zero Bus.
func (b *Bus) isZero() bool { return b == nil || b.core == nil }

// Conn returns the bus's connection, for what this library does not offer. The caller must
// not close it. In a testing/synctest bubble use only its functions that take a context: the
// others share timers with the whole process. Conn of a zero Bus is nil.
func (b *Bus) Conn() *nats.Conn {
	if b.isZero() {
		return nil
	}
	return b.core.Link.Conn()
}

// JetStream returns the JetStream client of the bus, for what this library does not offer.
// JetStream of a zero Bus is nil.
func (b *Bus) JetStream() jetstream.JetStream {
	if b.isZero() {
		return nil
	}
	return b.core.JetStream
}

// ClientURL returns the URL at which other NATS clients reach the server: the port of
// WithListen, or the URL of an existing server. It is empty when the server has no port.
func (b *Bus) ClientURL() string {
	if b.isZero() {
		return ""
	}
	if local := b.local.Load(); local != nil {
		return local.clientURL()
	}
	return b.core.Link.URL()
}

// Flush waits until the server has processed all messages that were published before it was
// called. Messages of PublishAsync that could not be sent are reported as events. Flush
// also waits for the outcomes of PublishToAsync. The futures have them.
//
// Errors: ErrTimeout, ErrClosed, ErrDisconnected.
func (b *Bus) Flush(ctx context.Context) error {
	if err := b.callable(ctx, "Flush"); err != nil {
		return err
	}
	ctx, cancel := b.core.WithTimeout(ctx)
	defer cancel()
	if err := b.async.Flush(ctx); err != nil && !errors.Is(err, outlet.ErrEnded) { // then Shutdown sends the rest
		return b.opError("Flush", "", err)
	}
	if err := b.window.Flush(ctx); err != nil {
		return b.opError("Flush", "", err)
	}
	return b.opError("Flush", "", b.core.Link.Flush(ctx, b.core.Timeout))
}

// report logs e and tells the user's function.
func (b *Bus) report(e event.Event) {
	e.Time = time.Now()
	b.core.Counters.Events.Add(1)
	b.logEvent(e)
	if b.cfg.onEvent == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			b.cfg.logger.Error("the function of WithEvents panicked", "panic", fmt.Sprint(v), "event", string(e.Kind))
		}
	}()
	b.cfg.onEvent(e)
}

// logEvent writes the log line of an event. It runs on the goroutine that reports the event.
func (b *Bus) logEvent(e event.Event) {
	var args []any
	for _, a := range []struct {
		key, value string
	}{{"subject", e.Subject}, {"stream", e.Stream}, {"durable", e.Durable}} {
		if a.value != "" {
			args = append(args, a.key, a.value)
		}
	}
	if e.Sequence != 0 {
		args = append(args, "sequence", e.Sequence)
	}
	if e.Attempt != 0 {
		args = append(args, "attempt", e.Attempt)
	}
	if e.Err != nil {
		args = append(args, "error", e.Err)
	}
	if p, ok := errors.AsType[*PanicError](e.Err); ok {
		args = append(args, "stack", string(p.Stack))
	}
	if e.Kind == event.Reconnected || e.Kind == event.LinkUp {
		b.cfg.logger.Info(string(e.Kind), args...)
		return
	}
	b.cfg.logger.Warn(string(e.Kind), args...)
}

// finishRemoval is called before a stream is deleted. On disk it makes sure that the server has
// no folder of an earlier stream of that name left to remove.
func (b *Bus) finishRemoval(stream string) error {
	local := b.local.Load()
	if local == nil || local.dir == nil {
		return nil
	}
	return local.dir.FinishRemoval(stream)
}

// callable returns an error unless b and ctx can be used.
func (b *Bus) callable(ctx context.Context, call string) error {
	if err := b.usable(call); err != nil {
		return err
	}
	if ctx == nil {
		return noContext(call)
	}
	if ctx.Err() != nil {
		return &opError{call, contextError(ctx)}
	}
	return nil
}

// enter is callable for a call of a few requests to the server. It waits while a switch holds
// the bus, and a switch waits for the call until done.
func (b *Bus) enter(ctx context.Context, call string) (done func(), err error) {
	if err := b.callable(ctx, call); err != nil {
		return nil, err
	}
	if err := b.calls.Enter(ctx); err != nil {
		return nil, b.opError(call, "", err)
	}
	return b.calls.Leave, nil
}

// ready is enter for a call that may last. A switch does not wait for it.
func (b *Bus) ready(ctx context.Context, call string) error {
	if err := b.callable(ctx, call); err != nil {
		return err
	}
	return b.opError(call, "", b.core.Link.Pass(ctx))
}

// busState is whether a bus is open, stopping or closed.
//
// States: open → stopping → closed. The first call of Shutdown does the work on its own
// goroutine. Later calls wait for it.
type busState struct {
	stopOnce *lifecycle.StopOnce
	stopping chan struct{} // closed when the first Shutdown begins
	closing  atomic.Bool   // the connection is being closed by us
	handlers context.Context
	cancel   context.CancelCauseFunc // of handlers
}

// begin makes the state open. It is called once, by open.
func (s *busState) begin() {
	s.stopOnce = lifecycle.NewStopOnce()
	s.stopping = make(chan struct{})
	ctx, cancel := context.WithCancelCause(context.Background())
	s.handlers, s.cancel = &handlerContext{Context: ctx, stopping: s.stopping}, cancel
}

// opError translates err and adds which call of b failed, and about which subject unless
// that is empty.
func (b *Bus) opError(op, subject string, err error) error {
	if err == nil {
		return nil // before anything that costs
	}
	err = translate(err)
	switch _, named := errors.AsType[*opError](err); {
	case named:
		return err
	case subject != "" && !names(err, subject):
		op = fmt.Sprintf("%s %.200q", op, subject)
	}
	if nc := b.core.Link.Conn(); !nc.IsConnected() && !nc.IsClosed() {
		err = fmt.Errorf("%w (the bus is disconnected from its server now)", err)
	}
	return &opError{op, err}
}

// names reports whether the text of err names subject itself.
func names(err error, subject string) bool {
	e, ok := errors.AsType[*SubjectError](err)
	return ok && e.Subject == subject
}

// closedChan is a closed channel.
var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// newDiscovery returns what answers discovery requests for the responders of b.
func newDiscovery(b *Bus) *discovery.Service {
	return discovery.New(discovery.Config{
		Core: b.core, Name: b.cfg.name, Version: b.cfg.version,
		PendingMsgs: defaultPendingMsgs, PendingBytes: defaultPendingBytes,
		CheckReply: b.captures.CheckReply,
		Register:   func(s *discovery.Service) error { return b.registry.Add(lifecycle.StageDiscovery, s, nil) },
		Unregister: func(s *discovery.Service) { b.registry.Remove(s) },
	})
}

// newFormat returns the rules by which a bus encodes and decodes.
func newFormat(c *config, counters *telemetry.Bus) *payload.Format {
	return payload.New(payload.Config{
		Codec: c.payload.codec, Rules: c.payload.rules, Known: c.payload.codecs, Counters: counters,
		Encoding: c.payload.encoding, MinSize: c.payload.minSize, MaxDecoded: c.payload.maxDecoded,
	})
}

// Stats returns the statistics of the bus. It reads the counters one after the other while
// the bus runs, so sums may differ by a few messages.
func (b *Bus) Stats() stats.Bus {
	if b.isZero() {
		return stats.Bus{}
	}
	return b.retired.collect(&b.core.Counters, b.async.Pending())
}
