package intake

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/wire"
)

// deniedAck is the latest refusal of an acknowledgement. Its message comes again, and is
// handled again.
type deniedAck struct {
	err error
	at  time.Time
}

// deniedAckMemory is how long after AckWait a refusal counts: without a permission the next
// acknowledgement is refused too.
const deniedAckMemory = time.Minute

// prove asks the server whether it accepts requests for messages and acknowledgements. It
// sends what has no effect: a request without a subject for its reply, and an in-progress
// signal for message 0. OpenDurable calls it.
func (d *Durable) prove() error {
	if !d.link.MayRefuse() || !d.link.Conn().IsConnected() { // requests would wait for the next connection
		return nil
	}
	var probes []wire.Out
	var subjects []string
	for _, p := range d.pullers {
		probes = append(probes, wire.Out{Subject: p.Next}, wire.Out{Subject: p.Acks + ".1.0.0.0.0", Data: []byte("+WPI")})
	}
	for _, out := range probes {
		subjects = append(subjects, out.Subject)
	}
	return d.link.Prove(context.Background(), func() error {
		for i := range probes {
			if err := d.link.Publish(&probes[i]); err != nil {
				return err
			}
		}
		return nil
	}, subjects...)
}

// onDeniedRequest notes that the server refuses a request for messages, and asks again after a
// while. nats.go calls it.
func (p *puller) onDeniedRequest(e *link.RefusedError) (taken bool) {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	now := time.Now()
	p.beginLocked(now, now.Add(retryPull))
	p.stallLocked(e)
	p.d.wakeMaintainer()
	return true
}

// onDeniedAck notes that the server refuses an acknowledgement, and reports it, at most once
// a minute. nats.go calls it.
func (d *Durable) onDeniedAck(e *link.RefusedError) (taken bool) {
	if e.Inbox {
		return false // a puller reports it
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if now.Sub(d.deniedAck.at) >= deniedAckMemory {
		d.reportLocked(e)
	}
	d.deniedAck = deniedAck{e, now}
	return true
}
