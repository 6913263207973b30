package embedded

import (
	"cmp"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus/internal/limits"
)

// Config says how to start a server.
type Config struct {
	StoreDir   string   // empty: streams are in memory
	HomeID     string   // of the switch that brings streams home to StoreDir; empty for none. Then nothing is synced until Restart
	Listen     Address  // the zero value: no port
	Cluster    *Cluster // nil: the server is in no cluster
	Leaf       *Leaf    // nil: the server is linked to no other one
	SyncAlways bool     // each message is synced before its publisher is told so
	SyncEvery  time.Duration
	MaxMemory  int64 // bytes of streams in memory; 0: limits.DefaultMemory
	MaxStore   int64 // bytes of streams on disk; 0: limits.DefaultDisk
	MaxPayload int   // bytes
	Customize  []func(*server.Options)

	UnsafePorts bool // ports that ask nobody who he is may be open to other machines

	Logger hclog.Logger

	unsynced bool // what is stored now is synced later
}

// Address is where a server listens.
type Address struct {
	Text string // as the program wrote it, "127.0.0.1:4222"
	Host string // empty: every interface
	Port int    // 0: any free port
}

// maxPending is how many bytes may wait in the server for the bus. The server disconnects a
// client that exceeds it. The bus is one client with all that its consumers asked for, and
// 64 MiB, the server's default, are one window of large messages. It is a limit: it takes no
// memory by itself. For other clients see backlog.
const maxPending = 256 << 20

// serverOptions makes the server's options. What the library relies on is set last, so
// that Customize cannot change it.
func (c *Config) serverOptions(dir *store) *server.Options {
	opts := &server.Options{
		DontListen:         true,
		MaxPayload:         int32(c.MaxPayload),
		MaxPending:         maxPending,
		JetStreamMaxMemory: c.MaxMemory,
		JetStreamMaxStore:  c.MaxStore,
		SyncAlways:         c.SyncAlways && !c.unsynced,
	}
	if opts.JetStreamMaxMemory == 0 {
		opts.JetStreamMaxMemory = limits.DefaultMemory()
	}
	if opts.JetStreamMaxStore == 0 {
		opts.JetStreamMaxStore = limits.DefaultDisk(dir.path)
	}
	if !c.SyncAlways {
		opts.SyncInterval = c.SyncEvery
	}
	c.listen(opts)
	c.Cluster.set(opts)
	c.Leaf.set(opts)
	for _, fn := range c.Customize {
		fn(opts)
	}
	opts.NoSigs, opts.NoLog, opts.DisableJetStreamBanner = true, true, true
	opts.JetStream, opts.StoreDir = true, dir.path
	opts.ServerName, opts.JetStreamDomain = dir.identity.ServerName, c.Leaf.domain(dir.identity.Domain)
	return opts
}

// listen sets the port for clients.
func (c *Config) listen(opts *server.Options) {
	if c.Listen == (Address{}) {
		return
	}
	opts.DontListen, opts.Host, opts.Port = false, c.Listen.Host, c.Listen.Port
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
}

// listensOn reports whether the server's host and port are those of Listen. Customize may
// have changed them.
func (c *Config) listensOn(host string, port int) bool {
	wantHost := cmp.Or(c.Listen.Host, server.DEFAULT_HOST)
	wantPort := cmp.Or(c.Listen.Port, server.RANDOM_PORT)
	return c.Listen != (Address{}) && host == wantHost && port == wantPort
}
