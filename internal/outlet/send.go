package outlet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// Outlet sends the messages of one bus. Safe for concurrent use.
type Outlet struct {
	link     *link.Link
	asking   link.Gate            // requests under way are inside; AwaitReplies holds it
	tel      *telemetry.Telemetry // nil if telemetry is off
	counters *telemetry.Bus
	batches  chan struct{}             // holds one element for each batch that is being sent
	moved    atomic.Pointer[dedup.IDs] // of streams that moved to another server; nil for none

	attemptTimeout time.Duration // the constant attemptTimeout; tests set another
}

// New returns the outlet of a bus. t is nil if telemetry is off.
func New(l *link.Link, t *telemetry.Telemetry, c *telemetry.Bus) *Outlet {
	return &Outlet{link: l, tel: t, counters: c, batches: make(chan struct{}, maxBatches), attemptTimeout: attemptTimeout}
}

// Message is one encoded message to send, and what is known about it.
type Message struct {
	wire.Out
	ID         string // deduplication ID, or empty
	Stream     string // that is to store it; empty if nobody looks there after a lost answer
	Copy       string // not empty if this is a copy of another message, whose trace it keeps: its subject for metrics; a refused expectation says that it is stored already
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

// Size returns the size of m as the server counts it, in bytes.
func (m *Message) Size() int {
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

// ErrorType is the error.type of traces and metrics: the name of the public error.
func (e *TooLargeError) ErrorType() string { return "bus.PayloadError" }

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

// ErrUnanswered is returned by Request when the request was sent and the link was closed
// before the reply came.
var ErrUnanswered = errors.New("the reply did not come before the connection was closed")

// Send hands m to the connection. m arrives at most once.
func (o *Outlet) Send(ctx context.Context, m *Message) error {
	if err := o.link.Enter(ctx); err != nil {
		return o.count(m, err)
	}
	defer o.link.Leave()
	if o.tel == nil {
		return o.count(m, o.publish(m))
	}
	ctx, span := o.tel.Send(ctx, o.operation(telemetry.OpPublish, m))
	o.inject(ctx, m)
	err := o.count(m, o.publish(m))
	span.End(err)
	return err
}

// SendProven is Send. The first messages to a subject, and those to a subject of which the
// server has refused messages, wait for the answer to a flush. So it returns the server's
// refusal, a *link.RefusedError, if there is a connection.
func (o *Outlet) SendProven(ctx context.Context, m *Message) error {
	if !o.link.Unproven(m.Subject) {
		return o.Send(ctx, m)
	}
	return o.link.Prove(ctx, func() error { return o.Send(ctx, m) }, m.Subject)
}

// Request sends m and waits for one reply until ctx ends. The gate does not count it: a
// reply that never comes must not hold up a shutdown. While the gate is held it waits.
func (o *Outlet) Request(ctx context.Context, m *Message) (*nats.Msg, error) {
	if err := o.beginRequest(ctx); err != nil {
		return nil, err
	}
	defer o.asking.Leave()
	ctx, span := o.tel.Send(ctx, o.operation(telemetry.OpRequest, m))
	o.inject(ctx, m)
	closed := o.link.Conn().IsClosed()
	reply, err := o.request(ctx, m)
	if errors.Is(err, nats.ErrConnectionClosed) && !closed {
		err = fmt.Errorf("%w (%w)", ErrUnanswered, err)
	}
	o.counters.Requests.Add(1)
	if err != nil {
		o.counters.RequestErrors.Add(1)
	}
	span.End(err)
	return reply, err
}

// Reply sends m as the answer to a request. It works after the gate was shut, because
// handlers may finish while the bus stops.
func (o *Outlet) Reply(ctx context.Context, m *Message) error {
	o.inject(ctx, m)
	return o.count(m, o.publish(m))
}

// publish hands m to the connection. Messages of Send, Reply and Window leave for the
// server here, and all messages of a batch except the last.
func (o *Outlet) publish(m *Message) error { return o.describe(m, o.link.Publish(&m.Out)) }

// request sends m and waits for one reply. Messages of Request and Store leave for the
// server here, and the last message of a batch.
func (o *Outlet) request(ctx context.Context, m *Message) (*nats.Msg, error) {
	reply, err := o.link.Request(ctx, &m.Out)
	return reply, o.describe(m, err)
}

// inject writes the trace into the header of m. It leaves the header as it is if m would
// be too large with the trace: a trace must not make a message fail.
func (o *Outlet) inject(ctx context.Context, m *Message) {
	if o.tel == nil || m.Copy != "" {
		return
	}
	before := maps.Clone(m.Header)
	m.Header = o.tel.Inject(ctx, m.Header)
	if len(m.Header) != len(before) && m.Size() > o.link.MaxPayload() {
		m.Header = before
	}
}

// describe adds the size of m and the limit to the error of nats.go for large messages.
func (o *Outlet) describe(m *Message, err error) error {
	if err != nil && errors.Is(err, nats.ErrMaxPayload) {
		return &TooLargeError{Subject: m.Subject, Size: m.Size(), Limit: o.link.MaxPayload()}
	}
	return err
}

// failure returns the error that traces and metrics record for the outcome err of m. A copy
// that is stored already, which its refused expectation says, has not failed.
func (m *Message) failure(err error) error {
	if m.Copy != "" && jserr.IsWrongLastSequence(err) {
		return nil
	}
	return err
}

// count counts the outcome of one message and returns err.
func (o *Outlet) count(m *Message, err error) error {
	if err != nil {
		if m.failure(err) == nil {
			return err
		}
		o.counters.PublishFailed.Add(1)
		return err
	}
	o.counters.Published.Add(1)
	o.counters.PublishedBytes.Add(int64(len(m.Data)))
	return nil
}

// operation describes the sending of m for telemetry. It is empty if telemetry is off.
func (o *Outlet) operation(name string, m *Message) telemetry.Op {
	if o.tel == nil {
		return telemetry.Op{}
	}
	template := m.Copy
	if template == "" {
		template = subject.Template(m.Subject)
	}
	return telemetry.Op{Name: name, Subject: m.Subject, Template: template, MessageID: m.ID, Size: len(m.Data)}
}
