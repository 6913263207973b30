package link

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// hearingSize is how many bytes of a handshake are kept. What the server says of itself
	// has about 1 KiB.
	hearingSize = 16 << 10
	// lastWords is how long a refused handshake waits for the reason.
	lastWords = 100 * time.Millisecond
)

// hearing keeps what a server says during the first handshake. A server that refuses the
// connection says why and closes it. Then the next write fails, and nats.go reads no more.
//
// Dial switches it on and off. nats.go reads while another goroutine may write.
type hearing struct {
	on   atomic.Bool
	mu   sync.Mutex
	text []byte
}

func (h *hearing) add(p []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text = append(h.text, p[:min(len(p), hearingSize-len(h.text))]...)
}

// stop ends the hearing and forgets what was said.
func (h *hearing) stop() {
	h.on.Store(false)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text = nil
}

// refusal returns why the server ended the first handshake, after a write that failed; nil if
// the server did not say so.
func (c *conn) refusal() error {
	if !c.heard.on.Load() {
		return nil
	}
	_ = c.SetReadDeadline(time.Now().Add(lastWords))
	_, _ = c.Read(make([]byte, hearingSize)) // what nats.go did not read
	c.heard.mu.Lock()
	defer c.heard.mu.Unlock()
	_, after, found := bytes.Cut(c.heard.text, []byte("-ERR '"))
	reason, _, whole := bytes.Cut(after, []byte("'"))
	if !found || !whole {
		return nil
	}
	return named(errors.New("nats: " + string(reason)))
}

// named returns the error that nats.go has for err, a refusal that it gave the text of the
// server during the handshake.
func named(err error) error {
	text := strings.ToLower(err.Error())
	for _, known := range []error{nats.ErrMaxConnectionsExceeded, nats.ErrMaxAccountConnectionsExceeded} {
		if strings.ReplaceAll(known.Error(), "server ", "") == text {
			return known
		}
	}
	return err
}
