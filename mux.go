package bus

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/omnibus-go/bus/internal/subject"
)

// Mux shares the messages of one core subscription (Bus.Subscribe) out to handlers
// of several types by subject, keeping their order. Where patterns overlap the most
// specific one gets the message: a literal token goes before "*", and that before
// ">". Fill it with Handle before it is subscribed; later additions count for later
// subscriptions. The zero value is empty. Safe for concurrent use.
type Mux struct {
	mu     sync.Mutex
	routes []route
	errs   []error
}

// route is one handler of a Mux.
type route struct {
	pattern string
	make    maker
}

// Handle has h handle the messages that match s. A pattern that is malformed or
// taken, and a nil handler or Mux, are reported by the subscription.
func Handle[T any](m *Mux, s Subject[T], h Handler[T]) {
	if h == nil {
		m.add(route{pattern: string(s)}, &ArgumentError{Func: "Handle", Arg: "handler", Reason: "is nil"})
		return
	}
	m.add(route{string(s), typed(h)}, nil)
}

// HandleOld has h handle messages of an older form, made new by up. A message
// that up refuses counts as one that h failed on.
func HandleOld[Old, New any](m *Mux, s Subject[Old], up func(Old) (New, error), h Handler[New]) {
	if up == nil || h == nil {
		m.add(route{pattern: string(s)}, &ArgumentError{Func: "HandleOld", Arg: "up or handler", Reason: "is nil"})
		return
	}
	m.add(route{string(s), typed(func(ctx context.Context, old *Msg[Old]) error {
		data, err := up(old.Data)
		if err != nil {
			return err
		}
		return h(ctx, retyped(old, data))
	})}, nil)
}

func (m *Mux) add(r route, err error) {
	if m == nil {
		return // the subscription says so
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		err = checkPattern(r.pattern)
	}
	if err == nil && slices.ContainsFunc(m.routes, func(o route) bool { return o.pattern == r.pattern }) {
		err = &SubjectError{Subject: r.pattern, Reason: "the Mux has a handler for it already", Hint: "a message goes to one handler; remove one of the two"}
	}
	if err != nil {
		m.errs = append(m.errs, err)
		return
	}
	m.routes = append(m.routes, r)
}

// errUnrouted is the outcome of a message that no handler of a Mux is for.
var errUnrouted = errors.New("bus: the Mux has no handler for this subject")

// maker returns the handler that shares out, over the routes there are now.
func (m *Mux) maker(pattern string) (maker, error) {
	if m == nil {
		return nil, &ArgumentError{Func: "Subscribe", Arg: "mux", Reason: "is nil"}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	errs := slices.Clone(m.errs)
	routes := slices.Clone(m.routes)
	if len(routes) == 0 && len(errs) == 0 {
		errs = append(errs, &ArgumentError{Func: "Subscribe", Arg: "mux", Reason: "has no handlers; add some with bus.Handle"})
	}
	for _, r := range routes {
		if !subject.Overlap(r.pattern, pattern) {
			errs = append(errs, &SubjectError{Subject: r.pattern, Reason: "no subject of the subscription to " + pattern + " matches it", Hint: "widen the subscription or remove the handler"})
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	slices.SortFunc(routes, func(a, b route) int {
		if subject.MoreSpecific(a.pattern, b.pattern) {
			return -1
		}
		return 1
	})
	return func(f *format, o *handleOptions) RawHandler { return shareOut(f, o, routes) }, nil
}

// shareOut calls the first route that matches.
func shareOut(f *format, o *handleOptions, routes []route) RawHandler {
	handlers := make([]RawHandler, len(routes))
	for i, r := range routes {
		handlers[i] = r.make(f, o)
	}
	return func(ctx context.Context, m *RawMsg) error {
		for i := range routes {
			if subject.Matches(routes[i].pattern, m.Subject) {
				return handlers[i](ctx, m)
			}
		}
		return errUnrouted
	}
}
