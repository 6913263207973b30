package embedded

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// ListenError reports an address that the server could not listen on.
type ListenError struct {
	Addr string
	Err  error // what the server said
}

func (e *ListenError) Error() string { return fmt.Sprintf("cannot listen on %q: %v", e.Addr, e.Err) }

// Unwrap returns what the server said.
func (e *ListenError) Unwrap() error { return e.Err }

// StoreError reports a store directory that cannot be used.
type StoreError struct {
	Damaged bool  // a stream in it cannot be read; false: the directory cannot be used
	Err     error // a typed error of package storedir, or what the server said
}

func (e *StoreError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *StoreError) Unwrap() error { return e.Err }

// listeners are the ports that a server can open, with the text by which it says that it
// cannot.
func listeners(o *server.Options) []struct {
	failure, host string
	port          int
} {
	return []struct {
		failure, host string
		port          int
	}{
		{clientPortFailure, o.Host, o.Port},
		{"Error listening on leafnode port", o.LeafNode.Host, o.LeafNode.Port},
		{"Error listening on router port", o.Cluster.Host, o.Cluster.Port},
		{"Error listening on gateway port", o.Gateway.Host, o.Gateway.Port},
		{"Unable to listen for websocket connections", o.Websocket.Host, o.Websocket.Port},
		{"Unable to listen for MQTT connections", o.MQTT.Host, o.MQTT.Port},
		{"Can't start monitoring", o.HTTPHost, max(o.HTTPPort, o.HTTPSPort)},
	}
}

const clientPortFailure = "Error listening on port"

// startError makes an error of the line by which the server says why it did not start. The
// server has no other way to say it.
func (c *Config) startError(o *server.Options, line string) error {
	text := errors.New(line)
	for _, l := range listeners(o) {
		if !strings.HasPrefix(line, l.failure+":") {
			continue
		}
		addr := net.JoinHostPort(l.host, strconv.Itoa(l.port))
		if l.failure == clientPortFailure && c.listensOn(l.host, l.port) {
			addr = c.Listen.Text // as the program wrote it
		}
		return &ListenError{Addr: addr, Err: text}
	}
	if c.StoreDir != "" && strings.HasPrefix(line, "Can't start JetStream:") {
		return &StoreError{Err: text}
	}
	return text
}
