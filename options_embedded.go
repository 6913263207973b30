package bus

import (
	"fmt"
	"net"
	"strconv"
	"time"
)

// WithStoreDir keeps the streams of the embedded server in dir, which is made
// if absent and belongs to one bus at a time. Without it they are in memory and
// gone with the process. What was stored survives kill -9, and a power cut
// unless WithSync says otherwise. An empty dir means in memory.
func WithStoreDir(dir string) Option {
	return option(func(c *config) { c.storeDir = dir })
}

// WithListen opens a port of the embedded server for other NATS clients:
// "127.0.0.1:4222", ":4222" for all interfaces, "127.0.0.1:0" for any free
// port, which ClientURL tells. Without it there is no port. Clients are not
// asked who they are unless WithServerOptions sets that up.
func WithListen(addr string) Option {
	return option(func(c *config) {
		if addr == "" {
			c.listen = ""
			return
		}
		if _, _, err := splitListen(addr); err != nil {
			c.bad("WithListen", strconv.Quote(addr), err.Error())
		}
		c.listen = addr
	})
}

// splitListen splits host:port into what the server wants.
func splitListen(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf(`is not host:port; use "127.0.0.1:4222", or port 0 for any free one`)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("port %q is not a number from 0 to 65535", text)
	}
	return host, port, nil
}

// SyncPolicy says when the embedded server's files reach the disk.
type SyncPolicy struct {
	relaxed bool
	every   time.Duration
}

// SyncAlways makes each stored message safe against a power cut before its
// publisher is told so: one fsync a message. It is the default.
var SyncAlways = SyncPolicy{}

// SyncEvery syncs the files every d: a killed process still loses nothing, a
// power cut up to d of messages, and on a fresh directory also streams declared
// shortly before. d is at least 100 ms.
func SyncEvery(d time.Duration) SyncPolicy { return SyncPolicy{relaxed: true, every: d} }

func (p SyncPolicy) String() string {
	if !p.relaxed {
		return "always"
	}
	return p.every.String()
}

// WithSync sets when stored messages reach the disk; the default is SyncAlways.
// It has no effect without WithStoreDir.
func WithSync(p SyncPolicy) Option {
	return option(func(c *config) {
		if p.relaxed && p.every < 100*time.Millisecond {
			c.bad("WithSync", p, "the interval must be at least 100ms; use SyncAlways to sync each message")
		}
		c.sync = p
	})
}

// WithMaxMemory limits the bytes of all streams in memory. The default is a
// quarter of the least of GOMEMLIMIT, the container's limit and the machine's
// memory, at most 1 GiB.
func WithMaxMemory(bytes int64) Option {
	return option(func(c *config) {
		positive(c, "WithMaxMemory", bytes)
		c.maxMemory = bytes
	})
}

// WithMaxStore limits the bytes of all streams on disk. The default is a
// quarter of the size of the file system that holds the store directory.
func WithMaxStore(bytes int64) Option {
	return option(func(c *config) {
		positive(c, "WithMaxStore", bytes)
		c.maxStore = bytes
	})
}

// WithMaxPayload is the embedded server's limit in bytes for one message with
// its headers, from 16 KiB to 8 MiB; the default is 1 MiB. The bus's own limit
// for a payload is 8 KiB lower.
func WithMaxPayload(bytes int) Option {
	return option(func(c *config) {
		if bytes < 2*payloadReserve || bytes > largestPayload {
			c.bad("WithMaxPayload", bytes, fmt.Sprintf("must lie between %d and %d", 2*payloadReserve, largestPayload))
		}
		c.maxPayload = bytes
	})
}
