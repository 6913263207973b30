package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Plan is what Bus.Stream would do with a configuration.
type Plan struct {
	Stream    string
	Create    bool          // the stream is not there, and would be made
	Older     bool          // the stream has a higher Revision, and would stay as it is
	Changes   []FieldChange // that would be made, if there are no Conflicts
	Conflicts []FieldChange // for which it would be refused

	// WouldRemove is what is lost of what is stored now, once all changes are made,
	// those of Conflicts included that the server can make.
	WouldRemove Removal
}

// String tells the plan in a few lines.
func (p Plan) String() string {
	lines := []string{fmt.Sprintf("stream %q:", p.Stream)}
	say := func(format string, args ...any) { lines = append(lines, "  "+fmt.Sprintf(format, args...)) }
	switch {
	case p.Create:
		say("is made")
	case p.Older:
		say("stays as it is: it has a higher Revision")
	case len(p.Changes)+len(p.Conflicts) == 0:
		say("stays as it is")
	}
	for _, c := range p.Changes {
		say("change %v", c)
	}
	for _, c := range p.Conflicts {
		say("refuse %v", c)
	}
	if p.WouldRemove != (Removal{}) {
		say("remove %v", p.WouldRemove)
	}
	return strings.Join(lines, "\n")
}

// Plan says what Bus.Stream would do with c and opts, and changes nothing. The name
// in c may be left out; another one than the stream's is an *OptionError. Other
// errors are those of Bus.Stream but for *StreamConflictError. Meanwhile messages
// come and go, so the numbers are those of this moment.
func (s *Stream) Plan(ctx context.Context, c StreamConfig, opts ...DeclareOption) (Plan, error) {
	if err := s.callable(ctx, "Plan"); err != nil {
		return Plan{}, err
	}
	o := new(declareOptions)
	if err := applyAll(opts, o, DeclareOption.onDeclare); err != nil {
		return Plan{}, err
	}
	if c.Name == "" {
		c.Name = s.name
	}
	if c.Name != s.name {
		return Plan{}, badStreamField("Name", quoted(c.Name), "Plan is about stream "+quoted(s.name)+"; leave the name out")
	}
	if err := errors.Join(c.check(), s.bus.hasDisk(c.Storage == FileStorage)); err != nil {
		return Plan{}, err
	}
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	return s.bus.plan(ctx, &c, o.shrink)
}

func (b *Bus) plan(ctx context.Context, c *StreamConfig, shrink bool) (Plan, error) {
	p := Plan{Stream: c.Name}
	st, err := b.core.JetStream.Stream(ctx, c.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		p.Create = true
		_, want, err := b.fresh(c)
		if err == nil {
			err = b.supports(ctx, want, differing(new(jetstream.StreamConfig), want))
		}
		return p, err
	}
	if err != nil {
		return p, streamError(c.Name, "look up", err)
	}
	d, err := c.draft(st.CachedInfo().Config, shrink)
	if err != nil {
		return p, err
	}
	p.Older, p.Changes, p.Conflicts = d.older, d.changes, d.conflicts
	if len(d.fields) > 0 {
		p.WouldRemove = removal(ctx, st, d.want)
	}
	if len(d.conflicts) == 0 {
		err = b.supports(ctx, d.want, d.fields)
	}
	return p, err
}
