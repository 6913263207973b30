package outlet

import (
	"fmt"

	"github.com/omnibus-go/bus/internal/wire"
)

// Message is one encoded message to send, and what is known about it.
type Message struct {
	wire.Out
	ID         string // deduplication ID, or empty
	Copy       string // not empty if this is a copy of another message, whose trace it keeps: its subject for metrics
	Idempotent bool   // storing it twice has the same effect as storing it once, even without ID
}

// SetHeader replaces the values of key.
func (m *Message) SetHeader(key, value string) {
	if m.Header == nil {
		m.Header = make(wire.Header)
	}
	m.Header[key] = []string{value}
}

// isRepeatable reports whether m may be sent again when its answer was lost.
func (m *Message) isRepeatable() bool { return m.ID != "" || m.Idempotent }

// size returns the size of m as the server counts it, in bytes.
func (m *Message) size() int {
	size := m.contentSize()
	if len(m.Header) > 0 {
		size += len("NATS/1.0\r\n\r\n")
	}
	return size
}

// contentSize returns the size of the payload and the header fields of m, in bytes.
func (m *Message) contentSize() int {
	size := len(m.Data)
	for key, values := range m.Header {
		for _, v := range values {
			size += len(key) + len(v) + len(": \r\n")
		}
	}
	return size
}

// TooLargeError is the error for a message that is larger than the server accepts.
type TooLargeError struct {
	Subject     string
	Size, Limit int // bytes, headers included
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("a message of %d bytes to %q, the server takes %d", e.Size, e.Subject, e.Limit)
}

// PayloadReserve is how much of the server's limit a message leaves free, in bytes: room
// for the headers that a dead letter or a trace adds.
const PayloadReserve = 8 << 10

// CheckSize returns a *TooLargeError if m is larger than a message of the bus may be: the
// server's limit less PayloadReserve, or half of a small limit. Callers check what users
// publish. Copies of messages may use the reserve.
func (o *Outlet) CheckSize(m *Message) error {
	limit := o.link.MaxPayload()
	return m.CheckSize(limit - min(PayloadReserve, limit/2))
}

// CheckSize returns a *TooLargeError if the payload and the header fields of m have more
// than limit bytes.
func (m *Message) CheckSize(limit int) error {
	if size := m.contentSize(); size > limit {
		return &TooLargeError{Subject: m.Subject, Size: size, Limit: limit}
	}
	return nil
}
