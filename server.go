package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/omnibus-go/bus/internal/limits"
)

// New starts a NATS server with JetStream in this process and returns a bus on
// it. Without options it has no port, keeps streams in memory and shares nothing
// with other buses. With WithURL it uses that server instead and starts none.
//
// Errors: *OptionError (all of them, joined); *StoreError about the store
// directory, with *LockedError inside when another bus uses it; *StartError, with
// *ListenError or *StoreError inside; *UnmovedError and *ConnectError with WithURL.
func New(opts ...Option) (*Bus, error) {
	c := newConfig()
	c.apply(opts)
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.url != "" {
		if err := c.checkUnmoved(); err != nil {
			return nil, err
		}
		return connect(context.Background(), c)
	}
	e, err := startEngine(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	b, err := open(ctx, c, e)
	if err != nil {
		return nil, errors.Join(&StartError{Err: err}, e.stop())
	}
	return b, nil
}

// WithServerOptions lets fn change the embedded server's options just before it
// starts, for what this library does not offer (TLS and users for the port of
// WithListen, as an example). What the library itself needs is set afterwards
// and cannot be changed: no signal handlers, JetStream, the store directory and
// the server's name. Custom accounts are not supported.
func WithServerOptions(fn func(*server.Options)) Option {
	return option(func(c *config) {
		if fn == nil {
			c.bad("WithServerOptions", "nil", "give a function")
			return
		}
		c.serverOptions = append(c.serverOptions, fn)
	})
}

// maxPending is how many bytes may wait in the server for one client before it
// throws that client off. The bus is one client with all that its consumers asked
// for; the server's own 64 MiB are one window of large messages. It is a limit, and
// takes no memory by itself.
const maxPending = 256 << 20

// readyTimeout bounds how long a started server may take to accept connections.
// Reading the streams from disk is not part of it.
const readyTimeout = 10 * time.Second

// startEngine starts the embedded server and waits until it is ready.
func startEngine(c *config) (e *engine, err error) {
	dir, err := openStore(c)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e == nil { // also when a function of WithServerOptions panics
			err = errors.Join(err, dir.release())
		}
	}()
	if err := dir.mend(c, checkStreamConfig); err != nil {
		return nil, err
	}
	s, err := startServer(c, dir)
	if err != nil {
		return nil, err
	}
	c.logStart(dir, s)
	return &engine{
		dial:      s.InProcessConn,
		clientURL: func() string { return listenURL(c, s) },
		health:    func() error { return serverHealth(s) },
		stop: func() error {
			s.Shutdown()
			s.WaitForShutdown()
			return dir.release()
		},
	}, nil
}

// checkStreamConfig returns an error unless config is what the server writes of the
// stream name.
func checkStreamConfig(name string, config []byte) error {
	var info server.FileStreamInfo
	d := json.NewDecoder(bytes.NewReader(config))
	d.DisallowUnknownFields()
	if err := d.Decode(&info); err != nil {
		return err
	}
	if info.Name != name || info.Created.IsZero() || d.More() {
		return fmt.Errorf("it is not the configuration of stream %q", name)
	}
	return nil
}

// startServer starts the server. It owns no goroutine of ours; the server's end
// with Shutdown.
func startServer(c *config, dir *store) (*server.Server, error) {
	opts, err := serverOptions(c, dir)
	if err != nil {
		return nil, err
	}
	if c.access, err = letSelfIn(opts); err != nil {
		return nil, &StartError{Err: err}
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, &StartError{Err: err}
	}
	log := &serverLog{logger: c.logger.Named("nats"), failed: make(chan struct{})}
	s.SetLoggerV2(log, true, false, false)
	s.Start()
	if err := awaitReady(c, s, log, opts); err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, err
	}
	if isSingle(opts) {
		dropDomainNames(s, opts.JetStreamDomain)
	}
	c.alone = isSingle(opts) && opts.DontListen && opts.Websocket.Port == 0 && opts.MQTT.Port == 0
	return s, nil
}

// domainNames are the parts of the JetStream API to which a domain gives a second
// name, "$JS.<domain>.API.<part>".
var domainNames = []string{"INFO", "STREAM.>", "CONSUMER.>", "DIRECT.>", "META.>", "SERVER.>", "ACCOUNT.>", "$KV.>", "$OBJ.>"}

// dropDomainNames has the server forget these names, which it would otherwise
// look for in every message published: that takes it as long as all the rest.
// Only other servers need them, over a leaf link; whoever adds one to a running
// server must add the names again.
func dropDomainNames(s *server.Server, domain string) {
	for _, part := range domainNames {
		s.GlobalAccount().RemoveMapping("$JS." + domain + ".API." + part)
	}
}

// isSingle reports whether the server is connected to no other one.
func isSingle(o *server.Options) bool {
	return o.LeafNode.Port == 0 && len(o.LeafNode.Remotes) == 0 && o.Cluster.Port == 0 && o.Gateway.Port == 0
}

func serverOptions(c *config, dir *store) (*server.Options, error) {
	opts := &server.Options{
		DontListen:         true,
		MaxPayload:         int32(c.maxPayload),
		MaxPending:         maxPending,
		JetStreamMaxMemory: c.maxMemory,
		JetStreamMaxStore:  c.maxStore,
	}
	if opts.JetStreamMaxMemory == 0 {
		opts.JetStreamMaxMemory = limits.DefaultMemory()
	}
	if opts.JetStreamMaxStore == 0 {
		opts.JetStreamMaxStore = limits.DefaultDisk(dir.path)
	}
	opts.SyncAlways = !c.sync.relaxed
	if c.sync.relaxed {
		opts.SyncInterval = c.sync.every
	}
	if c.listen != "" {
		host, port, err := splitListen(c.listen)
		if err != nil {
			return nil, &OptionError{Option: "WithListen", Value: c.listen, Reason: err.Error()}
		}
		if port == 0 {
			port = server.RANDOM_PORT
		}
		opts.DontListen, opts.Host, opts.Port = false, host, port
	}
	for _, fn := range c.serverOptions {
		fn.(func(*server.Options))(opts)
	}
	opts.NoSigs, opts.NoLog, opts.DisableJetStreamBanner = true, true, true
	opts.JetStream, opts.StoreDir = true, dir.path
	opts.ServerName, opts.JetStreamDomain = dir.identity.ServerName, dir.identity.Domain
	return opts, nil
}

// letSelfIn lets the bus in where WithServerOptions has the server ask its
// clients who they are: by a key of its own, with which nobody can connect from
// outside this process. It returns how the bus shows that key.
func letSelfIn(o *server.Options) ([]nats.Option, error) {
	if custom := o.CustomClientAuthentication; custom != nil {
		o.CustomClientAuthentication = selfAuthentication{custom}
		return nil, nil
	}
	if o.Users == nil && o.Nkeys == nil && o.Username == "" && o.Authorization == "" {
		return nil, nil
	}
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, err
	}
	o.Nkeys = append(slices.Clip(o.Nkeys), &server.NkeyUser{Nkey: public,
		AllowedConnectionTypes: map[string]struct{}{inProcess: {}}})
	return []nats.Option{nats.Nkey(public, key.Sign)}, nil
}

const inProcess = "IN_PROCESS" // the server's name for such connections

// selfAuthentication asks others who they are, and not the bus itself.
type selfAuthentication struct{ others server.Authentication }

// Check implements server.Authentication.
func (a selfAuthentication) Check(c server.ClientAuthentication) bool {
	if addr := c.RemoteAddress(); addr != nil && addr.Network() == "pipe" {
		return true
	}
	return a.others.Check(c)
}

// awaitReady waits until s accepts connections and its streams are healthy. The
// server reports failures only to its logger.
func awaitReady(c *config, s *server.Server, log *serverLog, opts *server.Options) error {
	deadline := time.Now().Add(readyTimeout)
	for {
		select {
		case <-log.failed:
			return startError(c, opts, log.fatal)
		default:
		}
		if s.ReadyForConnections(10 * time.Millisecond) {
			break
		}
		if time.Now().After(deadline) {
			return &StartError{Err: fmt.Errorf("not ready for connections after %v", readyTimeout)}
		}
	}
	if err := askHealth(s, nil); err != nil {
		return &StartError{Err: &StoreError{Dir: c.storeDir, Problem: StoreDamaged, Err: fmt.Errorf(
			"the server cannot read what is stored: %w; restore the directory from a backup, or move the damaged stream out of %s", err, opts.StoreDir)}}
	}
	if fatal := log.begin(); fatal != "" {
		return startError(c, opts, fatal)
	}
	return nil
}

// startError makes an error of the line by which the server says why it did not
// start.
func startError(c *config, o *server.Options, line string) error {
	const clientPort = "Error listening on port"
	text := errors.New(line)
	for _, p := range []struct {
		begin, host string
		port        int
	}{
		{clientPort, o.Host, o.Port},
		{"Error listening on leafnode port", o.LeafNode.Host, o.LeafNode.Port},
		{"Error listening on router port", o.Cluster.Host, o.Cluster.Port},
		{"Error listening on gateway port", o.Gateway.Host, o.Gateway.Port},
		{"Unable to listen for websocket connections", o.Websocket.Host, o.Websocket.Port},
		{"Unable to listen for MQTT connections", o.MQTT.Host, o.MQTT.Port},
		{"Can't start monitoring", o.HTTPHost, max(o.HTTPPort, o.HTTPSPort)},
	} {
		if !strings.HasPrefix(line, p.begin+":") {
			continue
		}
		addr := net.JoinHostPort(p.host, strconv.Itoa(p.port))
		if p.begin == clientPort && c.listensOn(p.host, p.port) {
			addr = c.listen // as the program wrote it
		}
		return &StartError{Err: &ListenError{Addr: addr, Err: text}}
	}
	if c.storeDir != "" && strings.HasPrefix(line, "Can't start JetStream:") {
		return &StartError{Err: &StoreError{Dir: c.storeDir, Problem: StoreUnusable, Err: text}}
	}
	return &StartError{Err: text}
}

// listensOn reports whether the server's host and port are what WithListen says:
// WithServerOptions may say otherwise.
func (c *config) listensOn(host string, port int) bool {
	wantHost, wantPort, err := splitListen(c.listen)
	if wantHost == "" {
		wantHost = server.DEFAULT_HOST
	}
	if wantPort == 0 {
		wantPort = server.RANDOM_PORT
	}
	return err == nil && host == wantHost && port == wantPort
}

// serverHealth asks a running server how it is. A stream that it has a folder for
// and does not know is being made or removed at this moment: at the start it knew
// all there were.
func serverHealth(s *server.Server) error {
	return askHealth(s, func(e server.HealthzError) bool {
		return e.Type == server.HealthzErrorStream && strings.HasSuffix(e.Error, "could not be recovered")
	})
}

// askHealth asks the server how it is, and passes over errors that ignore says.
// It asks again while the answer is that the server is not ready: the server gives
// itself one millisecond to see that, which a crowded machine does not always have.
func askHealth(s *server.Server, ignore func(server.HealthzError) bool) error {
	for try := 0; ; try++ {
		errs := s.Healthz(&server.HealthzOptions{Details: true}).Errors
		if ignore != nil {
			errs = slices.DeleteFunc(errs, ignore)
		}
		switch {
		case len(errs) == 0:
			return nil
		case errs[0].Type != server.HealthzErrorConn || try == healthTries:
			return errors.New(errs[0].Error)
		}
	}
}

const healthTries = 50

// listenURL is where clients reach s, or "" without a port.
func listenURL(c *config, s *server.Server) string {
	if c.listen == "" {
		return ""
	}
	return everyInterface.Replace(s.ClientURL())
}

// everyInterface makes addresses to listen on ones to connect to.
var everyInterface = strings.NewReplacer("://0.0.0.0:", "://127.0.0.1:", "://[::]:", "://[::1]:")

// logStart says what a reader of the log wants to know first.
func (c *config) logStart(dir *store, s *server.Server) {
	if dir.dir != nil {
		c.logger.Info("streams are kept on disk", "dir", dir.dir.Path(), "sync", c.sync.String(), "durability", c.durability())
	}
	if c.listen != "" {
		url := listenURL(c, s)
		c.logger.Info("listening for NATS clients", "url", url)
		if addr, ok := s.Addr().(*net.TCPAddr); ok && !addr.IP.IsLoopback() && !asksWho(s) {
			c.logger.Warn("the port is open to other machines and asks no client who it is; listen on 127.0.0.1, or set up users with WithServerOptions")
		}
	}
}

// asksWho reports whether s asks its clients who they are.
func asksWho(s *server.Server) bool {
	v, err := s.Varz(nil)
	return err == nil && v.AuthRequired
}

func (c *config) durability() string {
	if c.sync.relaxed {
		return "survives kill -9; a power cut can lose the last " + c.sync.String()
	}
	return "survives kill -9 and power cuts"
}
