package intake

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// Holding is a message that is here and not settled.
type Holding struct {
	Sequence   uint64 // in its stream
	Delivery   uint64 // the number of its latest delivery, among those of its consumer
	Deliveries uint64 // how often it was delivered
}

// Freeze has settlements wait until thaw, and returns what is held by then, by the API subject
// that returns the state of the consumer. All settlements of before were handed to the
// connection. It is for a detached Durable: nothing more comes. When ctx ends first it returns
// why, and thaw must be called all the same. One Freeze at a time.
func (d *Durable) Freeze(ctx context.Context) (held map[string][]Holding, thaw func(), err error) {
	frozen := make(chan struct{})
	d.mu.Lock()
	d.frozen = frozen
	d.mu.Unlock()
	thaw = func() {
		d.mu.Lock()
		d.frozen = nil
		d.mu.Unlock()
		close(frozen)
	}
	for d.settling.Load() > 0 {
		select {
		case <-time.After(time.Millisecond): // a settlement that is being sent has no signal for that
		case <-ctx.Done():
			return nil, thaw, context.Cause(ctx)
		}
	}
	held = make(map[string][]Holding)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.pullers {
		held[p.Info] = nil
	}
	for at, h := range d.held {
		var s wire.Stored
		if err := s.ReadAck(h.reply); err != nil {
			return nil, thaw, err
		}
		info := d.pullers[at.source].Info
		held[info] = append(held[info], Holding{at.sequence, h.number, uint64(s.Deliveries)})
	}
	return held, thaw, nil
}

// beginSettling waits while settlements are frozen, and locks Durable.mu. endSettling follows
// when the settlement was handed to the connection.
func (d *Durable) beginSettling() {
	for {
		d.mu.Lock()
		frozen := d.frozen
		if frozen == nil {
			d.settling.Add(1)
			return
		}
		d.mu.Unlock()
		<-frozen
	}
}

func (d *Durable) endSettling() { d.settling.Add(-1) }
