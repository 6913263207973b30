package intake

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// Detach has the server send nothing more, and waits until all that it has sent is here. It
// is for a quiesced Durable whose connection is about to lead elsewhere: what the server sent
// would be lost on the way otherwise, and come again only after AckWait. Handlers that run go
// on and settle. Resume opens new inboxes. When ctx ends first Detach returns why; Resume
// must follow all the same. It may be called again.
func (d *Durable) Detach(ctx context.Context) error {
	for _, p := range d.pullers {
		if err := p.detach(ctx); err != nil {
			return err
		}
	}
	return nil
}

const (
	// maxFetches is how often Detach fetches what the server could not deliver. Messages that
	// another process has count as undelivered, too, and are never fetched.
	maxFetches = 5
	// fetchExpiry ends a request for such messages.
	fetchExpiry = 50 * time.Millisecond
)

// detach does so for one consumer. When the interest ends, the server may be about to send:
// such a message it keeps for the next request, as one that was sent. So detach asks for those
// that are sent and not here.
func (p *puller) detach(ctx context.Context) error {
	for fetches := 0; ; fetches++ {
		if err := p.endInterest(ctx); err != nil {
			return err
		}
		undelivered, err := p.undelivered(ctx)
		if err != nil || undelivered == 0 || fetches == maxFetches {
			return err
		}
		if err := p.fetch(ctx, undelivered); err != nil {
			return err
		}
	}
}

// endInterest closes the inbox for the server, and waits until all that has come is held.
func (p *puller) endInterest(ctx context.Context) error {
	d := p.d
	d.mu.Lock()
	p.detached, p.asked = true, 0 // what was asked for comes to this inbox, or never
	sub := p.sub
	d.mu.Unlock()
	err := d.link.EndInterest(ctx, sub, d.cfg.Timeout)
	if err == nil {
		err = emptied(ctx, sub, 0, nil)
	}
	d.mu.Lock()
	p.empty = err == nil
	d.mu.Unlock()
	return err
}

// undelivered returns how many messages the server counts as sent that are not here. It asks
// again for a moment, because settlements are processed a little later than they are sent.
func (p *puller) undelivered(ctx context.Context) (n int, err error) {
	for range 5 {
		reply, err := p.d.link.Request(ctx, &wire.Out{Subject: p.Info})
		if err != nil {
			return 0, err
		}
		var i consumerInfo
		if err := json.Unmarshal(reply.Data, &i); err != nil {
			return 0, fmt.Errorf("not the state of a consumer: %w", err)
		}
		p.d.mu.Lock()
		n = max(i.AckPending-p.held, 0)
		p.d.mu.Unlock()
		if n == 0 {
			return 0, nil
		}
		time.Sleep(time.Millisecond)
	}
	return n, nil
}

// fetch asks for n messages on a new inbox, and waits until they are here or the request has
// ended. Those that could not be delivered come first.
func (p *puller) fetch(ctx context.Context, n int) error {
	if err := p.attach(); err != nil {
		return err
	}
	d := p.d
	d.mu.Lock()
	p.asked = n
	d.mu.Unlock()
	if err := p.ask(n, 0, fetchExpiry); err != nil {
		return err
	}
	for {
		d.mu.Lock()
		waits := p.asked > 0 && !d.ends
		d.mu.Unlock()
		if !waits {
			return nil
		}
		select {
		case <-time.After(time.Millisecond): // the callback of the inbox has no signal for that
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// attach opens new inboxes for the pullers that Detach detached. Resume calls it.
func (d *Durable) attach() {
	for _, p := range d.pullers {
		if err := p.attach(); err != nil {
			d.report(err) // the connection is closed for good
		}
	}
}

// attach opens a new inbox for p, if it is detached, and closes the old one when all that was
// sent there is held.
func (p *puller) attach() error {
	d := p.d
	d.mu.Lock()
	detached := p.detached && !d.ends
	d.mu.Unlock()
	if !detached {
		return nil
	}
	sub, unhook, err := p.subscribe()
	if err != nil {
		return err
	}
	d.mu.Lock()
	if d.ends { // the drain closes the old one
		d.mu.Unlock()
		unhook()
		return sub.Unsubscribe()
	}
	old, empty := p.sub, p.empty
	p.sub, p.detached = sub, false
	d.unhook = append(d.unhook, unhook)
	d.mu.Unlock()
	if empty {
		return old.Unsubscribe()
	}
	go func() {
		ctx, cancel := context.WithTimeout(d.ctx, d.cfg.Timeout)
		defer cancel()
		if d.link.EndInterest(ctx, old, d.cfg.Timeout) == nil {
			_ = emptied(ctx, old, 0, nil)
		}
		_ = old.Unsubscribe() // it may be closed with the connection
	}()
	return nil
}
