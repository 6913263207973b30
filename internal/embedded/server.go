package embedded

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
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/storedir"
)

// Server is a running server. Safe for concurrent use.
type Server struct {
	// Access is how the bus identifies itself to the server.
	Access []nats.Option
	// Alone says that no client outside this process can reach the server.
	Alone bool
	// Single says that the server is connected to no other server.
	Single bool

	config  *Config
	store   *store
	server  *server.Server
	log     *serverLog
	watch   watch
	edge    edge
	backlog *backlog
	room    *room // nil if the library does not see to the limits

	stopping sync.Once
	stopErr  error
}

// Start starts a server and waits until it is ready. It is called by New.
//
// Errors: *StoreError about the store directory before the server starts; *StartError for
// everything else.
func Start(c *Config) (s *Server, err error) {
	dir, err := c.openStore()
	if err != nil {
		return nil, err
	}
	defer func() {
		if s == nil { // also when a function of Customize panics
			err = errors.Join(err, dir.release())
		}
	}()
	if err := c.repairStore(dir); err != nil {
		return nil, err
	}
	c.unsynced = c.HomeID != ""
	if s, err = c.run(context.Background(), dir); err != nil {
		return nil, &StartError{err}
	}
	s.logStart()
	return s, nil
}

// StartError reports that the server did not start, with a *ListenError or a *StoreError
// inside where that is the reason.
type StartError struct{ Err error }

func (e *StartError) Error() string { return "the server did not start: " + e.Err.Error() }

// Unwrap returns the reason.
func (e *StartError) Unwrap() error { return e.Err }

// run starts the server on dir, unless ctx ends before. From then on nothing ends that: a server that
// reads its streams does not look whether it is to stop. The goroutines of the server end with its Shutdown.
func (c *Config) run(ctx context.Context, dir *store) (*Server, error) {
	opts := c.serverOptions(dir)
	if err := errors.Join(c.checkPorts(opts), c.checkCluster(opts)); err != nil {
		return nil, err
	}
	access, err := letBusIn(opts, c.privatePort(opts))
	if err != nil {
		return nil, err
	}
	room := takeLimits(opts)
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, err
	}
	err = dir.claim()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		ns.Shutdown()
		return nil, err
	}
	log := &serverLog{logger: c.Logger.Named("nats"), failed: make(chan struct{}), room: room}
	ns.SetLoggerV2(log, true, false, false)
	ns.Start()
	err = c.awaitReady(ns, log, opts)
	if err == nil {
		err = room.limit(ns)
	}
	if err != nil {
		stop(ns)
		return nil, err
	}
	if isSingle(opts) {
		dropDomainNames(ns, opts.JetStreamDomain)
	}
	alone := isSingle(opts) && opts.DontListen && opts.Websocket.Port == 0 && opts.MQTT.Port == 0
	s := &Server{Access: access, Alone: alone, Single: isSingle(opts), config: c, store: dir, server: ns, log: log, room: room, watch: watch{start: time.Now()}}
	s.backlog = s.watchBacklog(opts)
	return s, nil
}

// isSingle reports whether the server is connected to no other server.
func isSingle(o *server.Options) bool {
	return o.LeafNode.Port == 0 && len(o.LeafNode.Remotes) == 0 && o.Cluster.Port == 0 && o.Gateway.Port == 0
}

// domainNames are the parts of the JetStream API that a domain gives a second name,
// "$JS.<domain>.API.<part>".
var domainNames = []string{"INFO", "STREAM.>", "CONSUMER.>", "DIRECT.>", "META.>", "SERVER.>", "ACCOUNT.>", "$KV.>", "$OBJ.>"}

// dropDomainNames removes these names. With them the server looks for each of them in
// every message that is published, which takes as long as all the rest. Only other servers
// need them, over a leaf link: whoever adds a link to a running server must add the names
// again. See ADR 3.
func dropDomainNames(s *server.Server, domain string) {
	for _, part := range domainNames {
		s.GlobalAccount().RemoveMapping("$JS." + domain + ".API." + part)
	}
}

// Dial returns a connection to the server inside this process.
func (s *Server) Dial() (net.Conn, error) { return s.server.InProcessConn() }

// Clients returns how many clients are connected, without that of the leaf link's watch, and how
// many ever were.
func (s *Server) Clients() (now int, ever uint64) {
	now = s.server.NumClients()
	if c := s.edge.conn; c != nil && c.IsConnected() {
		now--
	}
	v, err := s.server.Varz(&server.VarzOptions{})
	if err != nil {
		return now, 0
	}
	return now, v.TotalConnections
}

// Describe describes the clients that are connected, without that of the leaf link's watch and those
// with these IDs: by what one can find them.
func (s *Server) Describe(except ...uint64) (all []string) {
	if c := s.edge.conn; c != nil {
		if id, err := c.GetClientID(); err == nil {
			except = append(except, id)
		}
	}
	conns, err := s.server.Connz(nil)
	if err != nil {
		return nil
	}
	for _, c := range conns.Conns {
		if !slices.Contains(except, c.Cid) {
			all = append(all, fmt.Sprintf("%q from %s, id %d", c.Name, net.JoinHostPort(c.IP, strconv.Itoa(c.Port)), c.Cid))
		}
	}
	return all
}

// Domain is the JetStream domain of the server.
func (s *Server) Domain() string { return s.store.identity.Domain }

// Dir is the store directory; nil for streams in memory.
func (s *Server) Dir() *storedir.Dir { return s.store.dir }

// Stop stops the server and gives the store directory up. It may be called again, and returns
// the same then.
func (s *Server) Stop() error {
	s.stopping.Do(func() {
		s.watch.end()
		s.edge.end()
		s.backlog.end()
		stop(s.server)
		s.stopErr = s.store.release()
	})
	return s.stopErr
}

// Restart ends a server with a HomeID, has all its files on the disk, and starts another one on
// them, which syncs as the config says. What was in memory is gone. It comes before Watch. s must
// not be used any more, but if Restart fails it must be stopped. When ctx ends it fails, unless the
// other one starts by then.
func (s *Server) Restart(ctx context.Context) (*Server, error) {
	s.backlog.end()
	s.backlog = nil
	stop(s.server)
	if err := s.store.dir.Sync(ctx); err != nil {
		return nil, &StoreError{Err: err}
	}
	s.config.unsynced = false
	fresh, err := s.config.run(ctx, s.store)
	if err != nil {
		return nil, &StartError{err}
	}
	return fresh, nil
}

func stop(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// ClientURL is where other clients reach the server; empty without a port.
func (s *Server) ClientURL() string {
	if s.config.Listen == (Address{}) {
		return ""
	}
	return everyInterface.Replace(s.server.ClientURL())
}

// everyInterface makes addresses to listen on ones to connect to.
var everyInterface = strings.NewReplacer("://0.0.0.0:", "://127.0.0.1:", "://[::]:", "://[::1]:")

// logStart logs what a reader of the log wants to know first.
func (s *Server) logStart() {
	c := s.config
	if s.store.dir != nil {
		sync, durability := "always", "survives kill -9 and power cuts"
		if !c.SyncAlways {
			sync = c.SyncEvery.String()
			durability = "survives kill -9; a power cut can lose the last " + sync
		}
		c.Logger.Info("streams are kept on disk", "dir", s.store.dir.Path(), "sync", sync, "durability", durability)
	}
	if c.Listen == (Address{}) {
		return
	}
	c.Logger.Info("listening for NATS clients", "url", s.ClientURL())
}

// checkStreamConfig returns an error unless config is what the server writes of the stream
// name.
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
