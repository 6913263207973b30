package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Plan says what Bus.Stream would do with a configuration.
type Plan struct {
	Stream    string
	Create    bool          // the stream does not exist and would be created
	Older     bool          // the stream has a higher Revision and would stay as it is
	Changes   []FieldChange // would be made, if there are no Conflicts
	Conflicts []FieldChange // would be refused

	// WouldRemove is what all changes would delete of the messages that are stored now.
	// It includes Conflicts, except those that the server cannot make.
	WouldRemove Removal
}

// String returns the plan as text of a few lines.
func (p Plan) String() string {
	lines := []string{fmt.Sprintf("stream %q:", p.Stream)}
	add := func(format string, args ...any) { lines = append(lines, "  "+fmt.Sprintf(format, args...)) }
	switch {
	case p.Create:
		add("is made")
	case p.Older:
		add("stays as it is: it has a higher Revision")
	case len(p.Changes)+len(p.Conflicts) == 0:
		add("stays as it is")
	}
	for _, c := range p.Changes {
		add("change %v", c)
	}
	for _, c := range p.Conflicts {
		add("refuse %v", c)
	}
	if p.WouldRemove != (Removal{}) {
		add("remove %v", p.WouldRemove)
	}
	return strings.Join(lines, "\n")
}

// Plan says what Bus.Stream would do with c and opts. It changes nothing. c may leave out
// the name; another stream's name is an *OptionError. Other programs may store and delete
// messages meanwhile, so the numbers are those of the moment of the call. Safe for
// concurrent use.
//
// Other errors: those of Bus.Stream, except *StreamConflictError.
func (s *Stream) Plan(ctx context.Context, c StreamConfig, opts ...DeclareOption) (Plan, error) {
	done, err := s.enter(ctx, "Plan")
	if err != nil {
		return Plan{}, err
	}
	defer done()
	o := new(declareOptions)
	_ = applyAll(opts, o, DeclareOption.onDeclare) // what is wrong is returned with the rest
	if c.Name == "" {
		c.Name = s.name
	}
	if c.Name != s.name {
		o.addError(badStreamField("Name", fmt.Sprintf("%q", c.Name), fmt.Sprintf("Plan is about stream %q; leave the name out", s.name)))
	}
	if err := errors.Join(o.joined(), c.check(), s.bus.checkDisk(c.Storage)); err != nil {
		return Plan{}, err
	}
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	p, err := s.bus.streams.Plan(ctx, c.definition(o.shrink))
	return Plan{Stream: c.Name, Create: p.Create, Older: p.Older, Changes: fieldChanges(p.Changes), Conflicts: fieldChanges(p.Refused),
		WouldRemove: Removal(p.WouldRemove)}, definitionError(err)
}
