// Package outlet is the way out: everything a bus sends passes here, through
// the gate, and is counted and traced here.
package outlet

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// Message is one encoded message on its way out and what is known about it.
type Message struct {
	wire.Out
	Template string // the subject pattern it was published to, for metrics
	ID       string // deduplication identifier, or empty
}

// SetHeader replaces the values of key.
func (m *Message) SetHeader(key, value string) {
	if m.Header == nil {
		m.Header = make(wire.Header)
	}
	m.Header[key] = []string{value}
}

// Outlet sends the messages of one bus. Safe for concurrent use.
type Outlet struct {
	link     *link.Link
	tel      *telemetry.Telemetry
	counters *telemetry.Bus
}

// New returns the outlet of a bus.
func New(l *link.Link, t *telemetry.Telemetry, c *telemetry.Bus) *Outlet {
	return &Outlet{link: l, tel: t, counters: c}
}

// Send hands m to the connection: accepted, but at most once.
func (o *Outlet) Send(ctx context.Context, m *Message) error {
	if err := o.link.Enter(); err != nil {
		return o.sent(m, err)
	}
	defer o.link.Leave()
	if o.tel == nil {
		return o.sent(m, o.link.Publish(&m.Out))
	}
	ctx, span := o.tel.Send(ctx, operation(telemetry.OpPublish, m))
	m.Header = o.tel.Inject(ctx, m.Header)
	err := o.sent(m, o.link.Publish(&m.Out))
	span.End(err)
	return err
}

// Request sends m and waits for one reply until ctx ends. It is not counted at
// the gate: a reply that never comes must not hold up whoever shuts it.
func (o *Outlet) Request(ctx context.Context, m *Message) (*nats.Msg, error) {
	if !o.link.Open() {
		return nil, link.ErrShut
	}
	ctx, span := o.tel.Send(ctx, operation(telemetry.OpRequest, m))
	m.Header = o.tel.Inject(ctx, m.Header)
	reply, err := o.link.Request(ctx, &m.Out)
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
	m.Header = o.tel.Inject(ctx, m.Header)
	return o.sent(m, o.link.Publish(&m.Out))
}

// sent counts the outcome of one message.
func (o *Outlet) sent(m *Message, err error) error {
	if err != nil {
		o.counters.PublishFailed.Add(1)
		return err
	}
	o.counters.Published.Add(1)
	o.counters.PublishedBytes.Add(int64(len(m.Data)))
	return nil
}

func operation(name string, m *Message) telemetry.Op {
	return telemetry.Op{Name: name, Subject: m.Subject, Template: m.Template, MessageID: m.ID, Size: len(m.Data)}
}
