package bus

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/omnibus-go/bus/internal/outlet"
)

// WithStoreDir keeps the streams of the embedded server in the directory dir. The directory
// is created if it does not exist, and belongs to one bus at a time. What is stored
// survives kill -9, and also a power cut unless WithSync says otherwise. Without the
// option, or with an empty dir, streams are in memory and end with the process. A "~" at the
// beginning of dir is not replaced, and refused.
//
// If the directory or its folder data is removed, moved or replaced while the bus is open,
// publishes to streams fail with a *StoreError, Health fails, and an event.ServerError says so.
// The same follows within a second when its file LOCK or the folder of a stream is gone, or the
// file system became read-only.
func WithStoreDir(dir string) Option {
	return option(func(c *config) {
		c.checkPath("WithStoreDir", dir)
		c.server.storeDir, c.server.dirGiven = dir, true
	})
}

// WithListen opens a port of the embedded server for other NATS clients: "127.0.0.1:4222",
// ":4222" for all interfaces, or "127.0.0.1:0" for any free port, which ClientURL tells.
// Without it the server has no port. Clients need not identify themselves unless
// WithServerOptions sets up users. Without users New refuses an address that other machines
// reach with an *OptionError, unless WithUnsafePorts allows it.
//
// Without an embedded server, that is with WithURL or when SwitchTo has moved the streams, the
// option has no effect, and the log says so.
//
// A client that reads too slowly is disconnected when 64 MiB wait for it, or when more than 1/16
// of the memory (64 to 256 MiB) waits for all clients and for it the most.
func WithListen(addr string) Option {
	return option(func(c *config) {
		if addr == "" {
			c.server.listen = listenConfig{}
			return
		}
		host, port, err := splitListen(addr)
		if err != nil {
			c.bad("WithListen", fmt.Sprintf("%.*q", maxShownURL, addr), err.Error())
		}
		c.server.listen = listenConfig{addr, host, port}
	})
}

// WithUnsafePorts lets the embedded server have ports that other machines reach and that ask
// nobody who he is: everybody in the network can then read, publish, and delete streams. Each
// such port is logged as a warning. Without the option New refuses them with an *OptionError,
// whoever opens them: WithListen, or WithServerOptions for clients, WebSocket, MQTT, leaf nodes,
// clusters, gateways, monitoring and profiling. A NoAuthUser counts as asking nobody. The
// option is for networks that are closed by other means.
func WithUnsafePorts() Option { return option(func(c *config) { c.server.unsafe = true }) }

// splitListen splits host:port.
func splitListen(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, errors.New(`is not host:port; use "127.0.0.1:4222", or port 0 for any free one`)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("port %.20q is not a number from 0 to 65535", text)
	}
	return host, port, nil
}

// SyncPolicy says when the embedded server syncs its files to the disk.
type SyncPolicy struct {
	relaxed bool
	every   time.Duration
}

// SyncAlways syncs each message before PublishTo returns, so that a power cut loses
// nothing. That is one fsync for each message. It is the default.
var SyncAlways = SyncPolicy{}

// SyncEvery syncs the files every d, which is at least 100 ms. A killed process still loses
// nothing. A power cut can lose the messages of the last d, and in a new directory also
// streams that were declared shortly before.
func SyncEvery(d time.Duration) SyncPolicy { return SyncPolicy{relaxed: true, every: d} }

func (p SyncPolicy) String() string {
	if !p.relaxed {
		return "always"
	}
	return p.every.String()
}

// WithSync sets when stored messages are synced to the disk. The default is SyncAlways. New
// refuses it without WithStoreDir; with an empty directory it has no effect.
func WithSync(p SyncPolicy) Option {
	return option(func(c *config) {
		if p.relaxed && p.every < 100*time.Millisecond {
			c.bad("WithSync", p, "the interval must be at least 100ms; use SyncAlways to sync each message")
			return
		}
		c.server.syncEvery = p.every
		c.server.onDisk = append(c.server.onDisk, diskOption{"WithSync", p})
	})
}

// WithMaxMemory limits the bytes of all streams in memory, to at least 16 KiB. The default is a quarter of the
// least of GOMEMLIMIT, the container's limit and the machine's memory, and at most 1 GiB. As
// with WithMaxStore, the consumers of the bus have a reserve.
func WithMaxMemory(bytes int64) Option {
	return option(func(c *config) {
		c.checkRoom("WithMaxMemory", bytes)
		c.server.maxMemory = bytes
	})
}

// WithMaxStore limits the bytes of all streams on disk, to at least 16 KiB. The default is a quarter
// of the size of the file system of the store directory. New refuses the option without
// WithStoreDir; with an empty directory it has no effect. Beyond it the consumers of this bus have a
// reserve for dead letters, retries, messages that wait behind a failing one of their key, and
// their own records: an eighth of the limit, at most 1 GiB, and at least the size of four
// messages of WithMaxPayload (4 MiB by default). Without it a message that fails could neither become a dead letter
// nor leave its stream. A bus whose limit is reached reports event.StoreFull, and its Health is
// degraded.
func WithMaxStore(bytes int64) Option {
	return option(func(c *config) {
		if c.checkRoom("WithMaxStore", bytes) {
			c.server.onDisk = append(c.server.onDisk, diskOption{"WithMaxStore", bytes})
		}
		c.server.maxStore = bytes
	})
}

// WithMaxPayload sets the embedded server's limit in bytes for a message with its headers,
// from 16 KiB to 8 MiB. The default is 1 MiB. The bus's own limit for a payload is 8 KiB
// lower.
func WithMaxPayload(bytes int) Option {
	return option(func(c *config) {
		if bytes < 2*outlet.PayloadReserve || bytes > largestPayload {
			c.bad("WithMaxPayload", bytes, fmt.Sprintf("must lie between %d and %d", 2*outlet.PayloadReserve, largestPayload))
		}
		c.server.maxPayload = bytes
	})
}

// WithURL has New use the server at u instead of an embedded one. u is "nats://host:4222",
// or several URLs separated by commas. An empty u means embedded, so that the value can
// come straight from a configuration.
func WithURL(u string) Option {
	return option(func(c *config) {
		if u != "" {
			c.checkURL("WithURL", u)
		}
		c.server.url = u
	})
}
