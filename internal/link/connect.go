package link

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Connect is nats.Connect for a connection beside that of a bus. Its error says why it reached no
// server. timeout limits each attempt.
func Connect(u string, timeout time.Duration, opts ...nats.Option) (*nats.Conn, error) {
	d := &sideDialer{net: net.Dialer{Timeout: timeout}}
	opts = append(opts, nats.Timeout(timeout), nats.SetCustomDialer(d), nats.SkipHostLookup()) // net.Dialer does that
	nc, err := nats.Connect(u, opts...)
	if err != nil {
		return nil, d.failed.explainFirst(err)
	}
	return nc, nil
}

// sideDialer reaches servers by network for Connect.
type sideDialer struct {
	net    net.Dialer
	failed failure
}

// Dial implements nats.CustomDialer.
func (d *sideDialer) Dial(network, addr string) (net.Conn, error) {
	nc, err := d.net.Dial(network, addr)
	if err != nil {
		d.failed.keep(err)
		return nil, err
	}
	return nc, nil
}

// failure keeps why the latest attempt failed to dial. Safe for concurrent use.
type failure struct {
	mu  sync.Mutex
	err error
}

func (f *failure) keep(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// explain returns err with the reason why the latest attempt failed, if it did.
func (f *failure) explain(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		return err
	}
	return fmt.Errorf("%w: %w", err, f.err)
}

// explainFirst returns err, of a first connect, with the reason that nats.go keeps to itself
// when it found no server.
func (f *failure) explainFirst(err error) error {
	if !errors.Is(err, nats.ErrNoServers) {
		return err
	}
	return f.explain(err)
}
