package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus/internal/limits"
	"github.com/omnibus-go/bus/internal/storedir"
)

// New starts a NATS server with JetStream in this process and returns a bus on
// it. Without options it has no port, keeps streams in memory and shares nothing
// with other buses. With WithURL it uses that server instead and starts none.
//
// Errors: *OptionError (all of them, joined); *StartError, with *ListenError or
// *StoreError inside; *LockedError and the other errors of a store directory,
// which wrap as *StoreError; *UnmovedError; *ConnectError with WithURL.
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

// readyTimeout bounds how long a started server may take to accept connections.
// Reading the streams from disk is not part of it.
const readyTimeout = 10 * time.Second

// startEngine starts the embedded server and waits until it is ready.
func startEngine(c *config) (*engine, error) {
	dir, err := openStore(c)
	if err != nil {
		return nil, err
	}
	s, err := startServer(c, dir)
	if err != nil {
		return nil, errors.Join(err, dir.release())
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

// store is where a server keeps its files: a locked directory, or for streams in
// memory a temporary one for the little that JetStream writes all the same.
type store struct {
	path     string
	identity storedir.Identity
	dir      *storedir.Dir // nil in memory
}

func openStore(c *config) (*store, error) {
	if c.storeDir == "" {
		path, err := os.MkdirTemp("", "omnibus-")
		if err != nil {
			return nil, &StartError{Err: fmt.Errorf("no temporary directory: %w", err)}
		}
		name := "bus-" + strings.ToLower(filepath.Base(path))
		return &store{path: path, identity: storedir.Identity{ServerName: name, Domain: name}}, nil
	}
	dir, err := storedir.Open(c.storeDir, storedir.Identity{})
	if err != nil {
		return nil, &StoreError{Dir: c.storeDir, Err: err}
	}
	for _, w := range dir.Warnings {
		c.logger.Warn(w, "dir", dir.Path())
	}
	return &store{path: dir.Data(), identity: dir.Identity(), dir: dir}, nil
}

func (s *store) release() error {
	if s.dir != nil {
		return s.dir.Close()
	}
	return os.RemoveAll(s.path)
}

// startServer starts the server. It owns no goroutine of ours; the server's end
// with Shutdown.
func startServer(c *config, dir *store) (*server.Server, error) {
	opts, err := serverOptions(c, dir)
	if err != nil {
		return nil, err
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, &StartError{Err: err}
	}
	log := &serverLog{logger: c.logger.Named("nats"), failed: make(chan struct{})}
	s.SetLoggerV2(log, true, false, false)
	s.Start()
	if err := awaitReady(c, s, log, dir); err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, err
	}
	if isSingle(opts) {
		dropDomainNames(s, opts.JetStreamDomain)
	}
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

// awaitReady waits until s accepts connections and its streams are healthy. The
// server reports failures only to its logger.
func awaitReady(c *config, s *server.Server, log *serverLog, dir *store) error {
	deadline := time.Now().Add(readyTimeout)
	for {
		select {
		case <-log.failed:
			return log.startError(c)
		default:
		}
		if s.ReadyForConnections(10 * time.Millisecond) {
			break
		}
		if time.Now().After(deadline) {
			return &StartError{Err: fmt.Errorf("not ready for connections after %v", readyTimeout)}
		}
	}
	if err := serverHealth(s); err != nil {
		return &StartError{Err: &StoreError{Dir: c.storeDir, Err: fmt.Errorf(
			"the server cannot read what is stored: %w; restore the directory from a backup, or move the damaged stream out of %s", err, dir.path)}}
	}
	return nil
}

// serverHealth asks the server how it is. It asks again while the answer is that
// the server is not ready: the server gives itself one millisecond to see that,
// which a crowded machine does not always have.
func serverHealth(s *server.Server) error {
	for range healthTries {
		h := s.Healthz(nil)
		switch {
		case h.Status == "ok":
			return nil
		case h.StatusCode != http.StatusInternalServerError:
			return errors.New(h.Error)
		}
	}
	return errors.New(s.Healthz(nil).Error)
}

const healthTries = 50

// listenURL is where clients reach s, or "" without a port.
func listenURL(c *config, s *server.Server) string {
	if c.listen == "" {
		return ""
	}
	url := s.ClientURL()
	return strings.Replace(url, "://0.0.0.0:", "://127.0.0.1:", 1)
}

// logStart says what a reader of the log wants to know first.
func (c *config) logStart(dir *store, s *server.Server) {
	if dir.dir == nil {
		c.logger.Info("streams are kept in memory and end with the process; WithStoreDir keeps them on disk")
	} else {
		c.logger.Info("streams are kept on disk", "dir", dir.dir.Path(), "sync", c.sync.String(), "durability", c.durability())
	}
	if c.listen != "" {
		url := listenURL(c, s)
		c.logger.Info("listening for NATS clients", "url", url)
		if addr, ok := s.Addr().(*net.TCPAddr); ok && !addr.IP.IsLoopback() {
			c.logger.Warn("the port is open to other machines and asks no client who it is; listen on 127.0.0.1, or set up users with WithServerOptions")
		}
	}
}

func (c *config) durability() string {
	if c.sync.relaxed {
		return "survives kill -9; a power cut can lose the last " + c.sync.String()
	}
	return "survives kill -9 and power cuts"
}

// checkUnmoved refuses to leave streams in the store directory behind silently.
func (c *config) checkUnmoved() error {
	if c.storeDir == "" {
		return nil
	}
	dirs, err := filepath.Glob(filepath.Join(c.storeDir, "data", "jetstream", "*", "streams", "*"))
	if err != nil || len(dirs) == 0 {
		return nil // no pattern error is possible; no streams, nothing to leave behind
	}
	names := make([]string, len(dirs))
	for i, d := range dirs {
		names[i] = filepath.Base(d)
	}
	return &UnmovedError{Dir: c.storeDir, Streams: names}
}

// serverLog passes the server's lines to the bus's logger and keeps the first
// fatal one, which is the server's only way to say why it did not start. The
// server's notices become Debug: they tell its life, not the program's.
type serverLog struct {
	logger hclog.Logger
	once   sync.Once
	failed chan struct{} // closed at the first fatal line
	fatal  string        // that line, valid when failed is closed
}

func (l *serverLog) Noticef(format string, v ...any) { l.logger.Debug(fmt.Sprintf(format, v...)) }
func (l *serverLog) Warnf(format string, v ...any)   { l.logger.Warn(fmt.Sprintf(format, v...)) }
func (l *serverLog) Errorf(format string, v ...any)  { l.logger.Error(fmt.Sprintf(format, v...)) }

// Debugf formats only when somebody reads it: the server has much to say.
func (l *serverLog) Debugf(format string, v ...any) {
	if l.logger.IsTrace() {
		l.logger.Trace(fmt.Sprintf(format, v...))
	}
}

// Tracef is Debugf: hclog has nothing below trace.
func (l *serverLog) Tracef(format string, v ...any) { l.Debugf(format, v...) }

// Fatalf keeps the line; nothing exits.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.once.Do(func() {
		l.fatal = fmt.Sprintf(format, v...)
		close(l.failed)
	})
}

// startError makes an error of the fatal line.
func (l *serverLog) startError(c *config) error {
	text := errors.New(l.fatal)
	switch {
	case c.listen != "" && strings.Contains(l.fatal, "istening on"):
		return &StartError{Err: &ListenError{Addr: c.listen, Err: text}}
	case c.storeDir != "":
		return &StartError{Err: &StoreError{Dir: c.storeDir, Err: text}}
	}
	return &StartError{Err: text}
}
