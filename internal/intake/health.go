package intake

import (
	"context"

	"github.com/omnibus-go/bus/internal/dispatch"
)

// trouble is what a Durable has to tell and who tells it: a goroutine of its own,
// since whoever is told may take long, or end the Durable. Guarded by the
// Durable's mu.
type trouble struct {
	untold []error
	teller dispatch.Goroutine // zero before it has begun
	told   chan struct{}      // closed when the teller ends; nil while there is none
}

// tell has err told.
func (d *Durable) tell(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tellLocked(err)
}

func (d *Durable) tellLocked(err error) {
	d.trouble.untold = append(d.trouble.untold, err)
	if d.trouble.told == nil {
		d.trouble.told = make(chan struct{})
		go d.tellAll()
	}
}

// tellAll tells what there is, and ends.
func (d *Durable) tellAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trouble.teller = dispatch.Here()
	for len(d.trouble.untold) > 0 {
		err := d.trouble.untold[0]
		d.trouble.untold = d.trouble.untold[1:]
		d.mu.Unlock()
		d.cfg.Stalled(err)
		d.mu.Lock()
	}
	close(d.trouble.told)
	d.trouble = trouble{}
}

// awaitTold waits until all is told or ctx ends. It does not wait for the teller
// if that is the caller whom ctx notes.
func (d *Durable) awaitTold(ctx context.Context) {
	d.mu.Lock()
	told, teller := d.trouble.told, d.trouble.teller
	d.mu.Unlock()
	if told == nil || teller.IsCaller(ctx) {
		return
	}
	select {
	case <-told:
	case <-ctx.Done():
	}
}

// Stalled is why no messages can be had at present, or nil.
func (d *Durable) Stalled() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sources {
		if s.stalled != nil {
			return s.stalled
		}
		if s.gate.told != nil {
			return s.gate.told
		}
	}
	return d.stuckLocked()
}
