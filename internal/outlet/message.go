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
	size := len(m.Data)
	if len(m.Header) > 0 {
		size += len("NATS/1.0\r\n\r\n")
	}
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
