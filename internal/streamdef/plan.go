package streamdef

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
	"github.com/omnibus-go/bus/switchover"
)

// Plan says what Declare would do.
type Plan struct {
	Create  bool     // the stream does not exist and would be created
	Older   bool     // the stream has a higher revision and would stay as it is
	Changes []Change // would be made if nothing is refused
	Refused []Change

	// WouldRemove is what all changes would delete, refused ones included if the server can
	// make them.
	WouldRemove Removal
}

// Plan says what Declare would do with def, and changes nothing. Its errors are those of
// Declare, except *ConflictError. If it returns an *UnsupportedError the plan is complete.
func (d *Declarer) Plan(ctx context.Context, def Definition) (Plan, error) {
	st, err := d.core.JetStream.Stream(ctx, def.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, want, err := d.newConfig(def)
		if err == nil {
			err = d.checkLevel(ctx, want, differing(new(jetstream.StreamConfig), want))
		}
		return Plan{Create: true}, err
	}
	if err != nil {
		return Plan{}, jserr.Wrap(def.Name, "look up", err)
	}
	if moved, committed := wire.Moved(st.CachedInfo().Config.Metadata); moved {
		return Plan{}, &switchover.StreamMovedError{Stream: def.Name, Committed: committed}
	}
	c, err := compare(st.CachedInfo().Config, def)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Older: c.older, Changes: c.changes, Refused: c.refused}
	if len(c.fields) > 0 {
		p.WouldRemove = estimateRemoval(ctx, st, c.want)
	}
	if len(c.refused) == 0 {
		err = d.checkLevel(ctx, c.want, c.fields)
	}
	return p, err
}
