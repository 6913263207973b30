package bus

import (
	"errors"
	"fmt"
)

// optionErrors collects the errors of the options of one call, so that the call reports all
// of them at once. The zero value is ready to use.
type optionErrors struct{ found []error }

// addError adds an error.
func (m *optionErrors) addError(err error) { m.found = append(m.found, err) }

// joined returns nil, the only error, or all errors joined.
func (m *optionErrors) joined() error {
	if len(m.found) == 1 {
		return m.found[0]
	}
	return errors.Join(m.found...)
}

// optionTarget is what options are applied to.
type optionTarget interface {
	addError(error)
	joined() error
}

// applyAll applies opts to target and returns all errors. A nil option is an error.
func applyAll[O any, T optionTarget](opts []O, target T, apply func(O, T)) error {
	for i, opt := range opts {
		if any(opt) == nil {
			target.addError(&OptionError{Option: fmt.Sprintf("option %d", i+1), Value: "nil", Reason: "leave it out"})
			continue
		}
		apply(opt, target)
	}
	return target.joined()
}
