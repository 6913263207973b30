// Package outlet is the way out: everything a bus sends passes here, through
// the gate, and is counted and traced here.
package outlet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// Message is one encoded message on its way out and what is known about it.
type Message struct {
	wire.Out
	ID         string // deduplication identifier, or empty
	Copy       string // not empty: a copy of another message, whose trace it keeps; what to call its subject in metrics
	Idempotent bool   // storing it twice has the effect of storing it once, even without ID
}

// SetHeader replaces the values of key.
func (m *Message) SetHeader(key, value string) {
	if m.Header == nil {
		m.Header = make(wire.Header)
	}
	m.Header[key] = []string{value}
}

// size is what the server counts of m.
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

// ErrUnanswered is returned by Request when the request was sent and the link was
// closed before the reply came.
var ErrUnanswered = errors.New("the reply did not come before the connection was closed")

// TooLargeError reports a message that the server does not take.
type TooLargeError struct {
	Subject     string
	Size, Limit int // bytes, headers included
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("a message of %d bytes to %q, the server takes %d", e.Size, e.Subject, e.Limit)
}

// Outlet sends the messages of one bus. Safe for concurrent use.
type Outlet struct {
	link     *link.Link
	tel      *telemetry.Telemetry
	counters *telemetry.Bus
	batches  chan struct{} // has one for each that is under way

	attemptTimeout time.Duration // always the constant, but in tests
}

// New returns the outlet of a bus.
func New(l *link.Link, t *telemetry.Telemetry, c *telemetry.Bus) *Outlet {
	return &Outlet{link: l, tel: t, counters: c, batches: make(chan struct{}, maxBatches), attemptTimeout: attemptTimeout}
}

// Send hands m to the connection: accepted, but at most once.
func (o *Outlet) Send(ctx context.Context, m *Message) error {
	if err := o.link.Enter(); err != nil {
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

// Request sends m and waits for one reply until ctx ends. It is not counted at
// the gate: a reply that never comes must not hold up whoever shuts it.
func (o *Outlet) Request(ctx context.Context, m *Message) (*nats.Msg, error) {
	if !o.link.Open() {
		return nil, link.ErrShut
	}
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

// Reply sends m as the answer to a request. It passes a shut gate, since handlers
// may finish while the bus stops.
func (o *Outlet) Reply(ctx context.Context, m *Message) error {
	o.inject(ctx, m)
	return o.count(m, o.publish(m))
}

func (o *Outlet) publish(m *Message) error { return o.describe(m, o.link.Publish(&m.Out)) }

func (o *Outlet) request(ctx context.Context, m *Message) (*nats.Msg, error) {
	reply, err := o.link.Request(ctx, &m.Out)
	return reply, o.describe(m, err)
}

// inject writes the trace into m's header, where m is not too large with it: a
// message must not fail because of that.
func (o *Outlet) inject(ctx context.Context, m *Message) {
	if o.tel == nil || m.Copy != "" {
		return
	}
	before := maps.Clone(m.Header)
	m.Header = o.tel.Inject(ctx, m.Header)
	if len(m.Header) != len(before) && m.size() > o.link.MaxPayload() {
		m.Header = before
	}
}

// named returns err with what nats.go leaves out.
func (o *Outlet) describe(m *Message, err error) error {
	if err != nil && errors.Is(err, nats.ErrMaxPayload) {
		return &TooLargeError{Subject: m.Subject, Size: m.size(), Limit: o.link.MaxPayload()}
	}
	return err
}

// sent counts the outcome of one message.
func (o *Outlet) count(m *Message, err error) error {
	if err != nil {
		o.counters.PublishFailed.Add(1)
		return err
	}
	o.counters.Published.Add(1)
	o.counters.PublishedBytes.Add(int64(len(m.Data)))
	return nil
}

// operation describes the sending of m; nobody reads it where telemetry is off.
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
