package bus

import (
	"errors"
	"fmt"
)

// mistakes collects what is wrong with the options of one call, so that all of it is
// reported at once. The zero value is ready to use.
type mistakes struct{ found []error }

func (m *mistakes) mistake(err error) { m.found = append(m.found, err) }

// mistaken is all that was found, joined where it is more than one thing.
func (m *mistakes) mistaken() error {
	if len(m.found) == 1 {
		return m.found[0]
	}
	return errors.Join(m.found...)
}

// applied is what options are applied to.
type applied interface {
	mistake(error)
	mistaken() error
}

// applyAll applies opts to to, and returns all that is wrong with them. A nil one is
// a mistake.
func applyAll[O any, T applied](opts []O, to T, apply func(O, T)) error {
	for i, opt := range opts {
		if any(opt) == nil {
			to.mistake(&OptionError{Option: fmt.Sprintf("option %d", i+1), Value: "nil", Reason: "leave it out"})
			continue
		}
		apply(opt, to)
	}
	return to.mistaken()
}
