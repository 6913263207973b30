package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/omnibus-go/bus/internal/consumer"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/subject"
)

// Mux calls different handlers for the messages of one core subscription (Bus.Subscribe) or
// one durable (Stream.Consume), by subject. It keeps the order of the messages. If several
// patterns match, the most specific one gets the message: a literal token comes before "*",
// and "*" before ">". If no pattern matches, the handler of Default gets it.
//
// Add the handlers before the Mux is used. Later additions count for later uses. The zero
// value is empty. Safe for concurrent use.
type Mux struct {
	mu     sync.Mutex
	routes []route
	rest   maker // of Default; nil for none
	errs   []error
}

// route is one handler of a Mux.
type route struct {
	pattern string
	make    maker
}

// Handle adds h for the messages that s matches. Subscribe or Consume report a malformed
// pattern, a pattern that has a handler already, a nil handler and a nil Mux.
func Handle[T any](m *Mux, s Subject[T], h Handler[T]) {
	if h == nil {
		m.add(route{pattern: string(s)}, badArgument("Handle", fmt.Sprintf("handler of %q", string(s)), "is nil"))
		return
	}
	m.add(route{string(s), typed(h)}, nil)
}

// HandleOld adds h for messages of an older form, which up converts. An error of up counts as
// an error of h.
func HandleOld[Old, New any](m *Mux, s Subject[Old], up func(Old) (New, error), h Handler[New]) {
	if up == nil || h == nil {
		m.add(route{pattern: string(s)}, badArgument("HandleOld", fmt.Sprintf("up or handler of %q", string(s)), "is nil"))
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

// Default adds h for the messages that no other handler of m is for. It gets their payloads
// decompressed. A durable with a Default receives all messages of its stream. Subscribe or
// Consume report a nil handler and a second Default.
func (m *Mux) Default(h Handler[[]byte]) {
	if m == nil {
		return // the subscription says so
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case h == nil:
		m.errs = append(m.errs, badArgument("Default", "handler", "is nil"))
	case m.rest != nil:
		m.errs = append(m.errs, badArgument("Default", "handler", "is the second one of this Mux; remove one of the two"))
	default:
		m.rest = typed(h)
	}
}

// add adds a route, or records the error that the subscription or consumer will return.
func (m *Mux) add(r route, err error) {
	if m == nil {
		return // the subscription says so
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if wrong := checkPattern(r.pattern); wrong != nil {
		err = errors.Join(err, wrong)
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

// routing is what a Mux does at one time.
type routing struct {
	routes []route // the most specific first
	rest   maker   // for what none of them matches; nil for none
}

// routing returns what m does now, or what is wrong with it for a call.
func (m *Mux) routing(call string) (*routing, error) {
	if m == nil {
		return nil, badArgument(call, "mux", "is nil")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &routing{routes: slices.Clone(m.routes), rest: m.rest}
	if len(m.errs) > 0 {
		return r, errors.Join(m.errs...)
	}
	if len(r.routes) == 0 && r.rest == nil {
		return r, badArgument(call, "mux", "has no handlers; add some with bus.Handle")
	}
	slices.SortFunc(r.routes, func(a, b route) int {
		if subject.MoreSpecific(a.pattern, b.pattern) {
			return -1
		}
		return 1
	})
	return r, nil
}

// within returns an error for each route that no subject of pattern can reach.
func (r *routing) within(pattern string) error {
	var errs []error
	for _, route := range r.routes {
		if !subject.Overlap(route.pattern, pattern) {
			errs = append(errs, &SubjectError{Subject: route.pattern, Reason: "no subject of the subscription to " + pattern + " matches it", Hint: "widen the subscription or remove the handler"})
		}
	}
	return errors.Join(errs...)
}

// filters returns the widest of the routes' patterns: together they match what the
// routes match. With a default that is everything.
func (r *routing) filters() ([]string, error) {
	if r.rest != nil {
		return []string{consumer.All}, nil
	}
	var widest []string
	for _, route := range slices.Backward(r.routes) { // the wider ones first
		if len(subject.Uncovered([]string{route.pattern}, widest)) > 0 {
			widest = append(widest, route.pattern)
		}
	}
	for i, a := range widest {
		for _, b := range widest[i+1:] {
			if subject.Overlap(a, b) {
				return nil, &SubjectError{Subject: b, Reason: "it overlaps with " + a + ", and neither contains the other: no durable can have both",
					Hint: "add a handler for a pattern that contains both, or a Default"}
			}
		}
	}
	slices.Sort(widest)
	return widest, nil
}

// shareOut is the maker of a handler that calls the first route that matches.
func (r *routing) shareOut(f *payload.Format, o *handlerOptions) RawHandler {
	handlers := make([]RawHandler, len(r.routes))
	for i, route := range r.routes {
		handlers[i] = route.make(f, o)
	}
	rest := func(context.Context, *RawMsg) error { return errUnrouted }
	if r.rest != nil {
		rest = r.rest(f, o)
	}
	return func(ctx context.Context, m *RawMsg) error {
		for i := range handlers {
			if subject.Matches(r.routes[i].pattern, m.Subject) {
				return handlers[i](ctx, m)
			}
		}
		return rest(ctx, m)
	}
}
