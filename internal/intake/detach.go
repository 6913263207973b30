package intake

import "context"

// Detach has the server send nothing more, and waits until all that it has sent is here. It
// is for a quiesced Durable whose connection is about to lead elsewhere: what the server sent
// would be lost on the way otherwise, and come again only after AckWait. Handlers that run go
// on and settle. Resume opens new inboxes. When ctx ends first Detach returns why; Resume
// must follow all the same. It may be called again.
func (d *Durable) Detach(ctx context.Context) error {
	for _, p := range d.pullers {
		d.mu.Lock()
		p.detached = true
		sub := p.sub
		d.mu.Unlock()
		if err := d.link.EndInterest(ctx, sub, d.cfg.Timeout); err != nil {
			return err
		}
		if err := emptied(ctx, sub, 0, nil); err != nil {
			return err
		}
	}
	return nil
}

// attach opens new inboxes for the pullers that Detach detached. Resume calls it.
func (d *Durable) attach() {
	for _, p := range d.pullers {
		if err := p.attach(); err != nil {
			d.report(err) // the connection is closed for good
		}
	}
}

// attach opens a new inbox for p, if it is detached, and closes the old one.
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
	old := p.sub
	p.sub, p.detached = sub, false
	p.asked = 0 // what was asked for would have come to the old one
	d.unhook = append(d.unhook, unhook)
	d.mu.Unlock()
	return old.Unsubscribe()
}
