package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nuid"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/internal/embedded"
	"github.com/omnibus-go/bus/internal/storedir"
)

// New starts a NATS server with JetStream in this process and returns a bus on it. Without
// options the server has no port, keeps streams in memory and shares nothing with other
// buses. With WithURL New starts no server and uses the one at that URL. If SwitchTo has moved
// the streams of the store directory, New connects to the server that has them now, with the
// options that identify the bus (WithUser and so on, which may be there before the move), and
// never uses the old streams. Then WithListen and the other options of the embedded server have
// no effect, WithListen with a warning in the log; WithLeaf and WithCluster are refused.
//
// Errors: *OptionError (all of them, joined); *StoreError about the store directory;
// *StartError when the server does not start; *ConnectError with WithURL;
// *switchover.MovedError when the streams were moved and their server cannot be used.
func New(opts ...Option) (*Bus, error) {
	c := newConfig()
	c.apply(opts)
	asked := c.server.url
	c.followMove()
	if err := c.check(); err != nil {
		return nil, err
	}
	return c.newBus(asked)
}

// newBus makes a bus on the server in this process, or on another one. asked is the URL of
// WithURL.
func (c *config) newBus(asked string) (*Bus, error) {
	var home startHome
	if c.server.storeDir != "" {
		home = func(id string) (*localServer, error) { return startLocal(c, id) }
	}
	if c.server.moved != nil {
		return connectMoved(c, asked, home)
	}
	if c.server.url == "" {
		return newEmbedded(c, home)
	}
	if err := c.server.checkNoStreams(); err != nil {
		return nil, err
	}
	return connect(context.Background(), c, home)
}

// newEmbedded makes a bus on a server in this process.
func newEmbedded(c *config, home startHome) (*Bus, error) {
	local, err := startLocal(c, "")
	if err != nil {
		return nil, err
	}
	c.auth.options = local.access
	c.inbox = cmp.Or(c.inbox, ownInboxPrefix())
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	b, err := open(ctx, c, local, home)
	if err != nil {
		return nil, errors.Join(&StartError{Err: err}, local.stop())
	}
	if err := local.attach(b); err != nil {
		return nil, errors.Join(&StartError{Err: err}, b.Close())
	}
	logUnfinishedSwitch(c, local.dir)
	b.tellFormer()
	return b, nil
}

// startLocal starts the server in this process, for a switch home if that has an ID.
func startLocal(c *config, home string) (*localServer, error) {
	config := c.embedded()
	config.HomeID = home
	s, err := embedded.Start(config)
	if err != nil {
		return nil, startError(c.server.storeDir, err)
	}
	return localOf(c, s), nil
}

// localOf returns the functions of s.
func localOf(c *config, s *embedded.Server) *localServer {
	local := &localServer{dial: s.Dial, clientURL: s.ClientURL, health: s.Health, checkStore: s.CheckStore, stop: s.Stop, alone: s.Alone,
		single: s.Single, clients: s.Clients, describe: s.Describe, access: s.Access, domain: s.Domain(), dir: s.Dir(), inReserve: s.InReserve, link: s.Link}
	local.usage = func() (all []storageUse) {
		for _, u := range s.Usage() {
			all = append(all, storageUse{u.Option, u.Used, u.Limit})
		}
		return all
	}
	local.attach = func(b *Bus) error {
		s.Watch(b.loseStore)
		s.OnFull(func() { b.capacity.Refused(errLimitReached) })
		return s.WatchLink(b.reportLink, func(e *embedded.DomainError) { b.report(event.Event{Kind: event.DomainTaken, Err: e}) })
	}
	local.restart = func(ctx context.Context) (*localServer, error) {
		fresh, err := s.Restart(ctx)
		if err != nil {
			return nil, startError(c.server.storeDir, err)
		}
		return localOf(c, fresh), nil
	}
	return local
}

// ownInboxPrefix returns the default prefix of a bus with an embedded server. Clients of the
// server's port that may subscribe to "_INBOX.>", as each that sends requests, must not read
// what the bus receives.
func ownInboxPrefix() string { return "_INBOX_" + nuid.New().Next()[:12] } // the first 12 letters are random

// WithServerOptions lets fn change the options of the embedded server just before it
// starts, for what this library does not offer, such as TLS and users for the port of
// WithListen. The library sets afterwards what it relies on: no signal handlers, JetStream,
// the store directory and the server's name. Custom accounts are not supported. Several
// functions run in the order of the options.
func WithServerOptions(fn func(*server.Options)) Option {
	return option(func(c *config) {
		if fn == nil {
			c.bad("WithServerOptions", "nil", "give a function")
			return
		}
		c.server.customize = append(c.server.customize, fn)
	})
}

// embedded is what the options say of the embedded server.
func (c *config) embedded() *embedded.Config {
	s := &c.server
	e := &embedded.Config{
		StoreDir:   s.storeDir,
		SyncAlways: s.syncEvery == 0, SyncEvery: s.syncEvery,
		MaxMemory: s.maxMemory, MaxStore: s.maxStore, MaxPayload: s.maxPayload,
		UnsafePorts: s.unsafe,
		Logger:      c.logger,
	}
	if l := s.listen; l.addr != "" {
		e.Listen = embedded.Address{Text: l.addr, Host: l.host, Port: l.port}
	}
	if n := s.cluster; n != nil {
		e.Cluster = n.embedded()
	}
	if l := s.leaf; l != nil {
		e.Leaf = &embedded.Leaf{URLs: l.urls, Credentials: l.credentials, Domain: l.domain}
	}
	for _, fn := range s.customize {
		e.Customize = append(e.Customize, fn.(func(*server.Options)))
	}
	return e
}

// embedded is what n says of the embedded server. checkNode has checked it.
func (n *Cluster) embedded() *embedded.Cluster {
	host, port, _ := splitListen(n.Listen)
	e := &embedded.Cluster{
		Name: n.Name, Node: n.Node, User: n.User, Password: n.Password, TLS: n.TLS,
		Listen: embedded.Address{Text: n.Listen, Host: host, Port: port},
	}
	for _, peer := range n.Peers {
		u := &url.URL{Scheme: "nats-route", Host: peer}
		if n.User != "" {
			u.User = url.UserPassword(n.User, n.Password)
		}
		e.Peers = append(e.Peers, u)
	}
	return e
}

// startError turns an error of embedded.Start into the public one.
func startError(dir string, err error) error {
	if store, ok := errors.AsType[*embedded.StoreError](err); ok {
		e := storeError(dir, store.Err)
		if store.Damaged {
			e.Problem = StoreDamaged
		}
		if _, started := errors.AsType[*embedded.StartError](err); started {
			return &StartError{Err: e}
		}
		return e
	}
	if _, ok := errors.AsType[*embedded.OpenPortError](err); ok {
		return openPortErrors(err)
	}
	if listen, ok := errors.AsType[*embedded.ListenError](err); ok {
		return &StartError{Addr: listen.Addr, Err: listen.Err}
	}
	if failed, ok := errors.AsType[*embedded.StartError](err); ok {
		return &StartError{Err: failed.Err}
	}
	return &StartError{Err: err}
}

// reportLink reports that the leaf link is up or down.
func (b *Bus) reportLink(l health.Link) {
	e := event.Event{Kind: event.LinkUp}
	if !l.Up {
		e.Kind, e.Err = event.LinkDown, errors.New(l.String())
	}
	b.report(e)
}

// loseStore has publishes to streams fail from now on, with err: the store directory is gone.
// The first call reports that.
func (b *Bus) loseStore(err error) {
	lost := storeError(b.cfg.server.storeDir, err)
	if b.lost.CompareAndSwap(nil, lost) {
		b.report(event.Event{Kind: event.ServerError, Err: lost})
	}
}

// lostStore returns why nothing is stored any more, or nil. It looks at the store directory,
// unless that was done less than maxAge ago: the server goes on to acknowledge messages until
// it is told.
func (b *Bus) lostStore(maxAge time.Duration) *StoreError {
	local := b.local.Load()
	if local == nil {
		return nil
	}
	if lost := b.lost.Load(); lost != nil {
		return lost
	}
	if err := local.checkStore(maxAge); err != nil {
		b.loseStore(err)
	}
	return b.lost.Load()
}

// openPortErrors makes an *OptionError of each *embedded.OpenPortError in err.
func openPortErrors(err error) error {
	if failed, ok := errors.AsType[*embedded.StartError](err); ok {
		err = failed.Err
	}
	var errs []error
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			if e, ok := errors.AsType[*embedded.OpenPortError](err); ok {
				errs = append(errs, openPortError(e))
			}
		}
	}
	return errors.Join(errs...)
}

// openPortError is the public form of e.
func openPortError(e *embedded.OpenPortError) *OptionError {
	option, remedy := "WithServerOptions", "set up users with WithServerOptions, "
	switch e.Port {
	case "client":
		option = "WithListen"
	case "cluster":
		option, remedy = "WithCluster", "set Cluster.User and Cluster.Password (FromEnv: OMNIBUS_CLUSTER_USER, OMNIBUS_CLUSTER_PASSWORD), the same for all nodes, or a Cluster.TLS that asks for certificates, "
	case "gateway":
		remedy = "set Gateway.Username and Gateway.Password with WithServerOptions, "
	case "monitoring", "profiling": // they never ask
		remedy = ""
	case "monitoring (HTTPS)":
		remedy = "set a TLSConfig that asks for certificates with WithServerOptions, "
	}
	return &OptionError{Option: option, Value: strconv.Quote(e.Addr), Reason: fmt.Sprintf(
		"%s; %slisten on 127.0.0.1, or allow it with WithUnsafePorts", inner(e), remedy)}
}

// checkNoStreams refuses to leave streams in the store directory behind silently.
func (s *serverConfig) checkNoStreams() error {
	if s.storeDir == "" {
		return nil
	}
	streams, err := storedir.Streams(s.storeDir)
	if err != nil {
		return storeError(s.storeDir, err)
	}
	if len(streams) == 0 {
		return nil
	}
	e := &StoreError{Dir: s.storeDir, Problem: StoreUnmoved, Streams: streams}
	if m, ok := storedir.CameHome(s.storeDir); ok {
		e.home = fmt.Sprintf(": SwitchTo has brought them home from %s, at %s", m.Target, m.At.Format(time.RFC3339))
	}
	return e
}
