package consumer

import (
	"context"
	"slices"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/subject"
)

// grow adds the filters of want that the durable of info does not have, so that a program may
// get one more handler. It adds them only if no stored message that they match lies before
// the place of the durable: that message would be skipped. It returns a *ConflictError if
// the durable differs in something else.
//
// While other processes ask for messages nothing is added: they may have no handler for the
// new ones. They could also move the place past a new message. After the change the place is
// compared once more, and undo brings the old filters back if they did.
func grow(ctx context.Context, c *Config, did *change, info *jetstream.ConsumerInfo, want jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	have := info.Config
	e := conflict(have, want)
	switch {
	case e == nil:
		return info, nil
	case len(e.Fields) > 1 || len(e.MissingFilters) == 0 || len(e.ExtraFilters) > 0:
		return nil, e
	case info.NumWaiting > 0:
		e.InUse = true
		return nil, e
	}
	if err := checkSkipped(ctx, c, e, have, info.Delivered.Stream); err != nil {
		return nil, err
	}
	grown := have
	grown.FilterSubject, grown.FilterSubjects = want.FilterSubject, want.FilterSubjects
	did.before = &have // also where the answer is lost
	after, err := update(ctx, c, grown)
	if err != nil {
		return nil, err
	}
	err = checkSkipped(ctx, c, e, have, after.Delivered.Stream)
	if err == nil {
		return after, nil
	}
	return nil, err // undo brings the old filters back
}

// checkSkipped returns e, with the message, if a stored message of its missing filters, which
// have does not get, lies at place or before. place is what the durable has delivered.
func checkSkipped(ctx context.Context, c *Config, e *ConflictError, have jetstream.ConsumerConfig, place uint64) error {
	for _, filter := range e.MissingFilters {
		first, err := firstNew(ctx, c, filter, filtersOf(have))
		if err != nil {
			return jserr.Wrap(c.Stream.Name, "look for messages that "+c.Durable+" would skip", err)
		}
		if first > 0 && first <= place && (e.FirstSkipped == 0 || first < e.FirstSkipped) {
			e.FirstSkipped = first
		}
	}
	if e.FirstSkipped > 0 {
		return e
	}
	return nil
}

// firstNew returns the sequence of the first stored message that filter matches and none of
// have, or 0 if there is none.
func firstNew(ctx context.Context, c *Config, filter string, have []string) (uint64, error) {
	if !slices.ContainsFunc(have, func(p string) bool { return subject.Overlap(p, filter) }) {
		return firstOn(ctx, c, filter)
	}
	st, err := c.Core.JetStream.Stream(ctx, c.Stream.Name)
	if err != nil {
		return 0, err
	}
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return 0, err
	}
	var missing []string
	for subj := range info.State.Subjects {
		if !slices.ContainsFunc(have, func(p string) bool { return subject.Matches(p, subj) }) {
			missing = append(missing, subj)
		}
	}
	return firstOfAll(ctx, c, missing)
}

// maxLookUps is how many requests for first messages are outstanding at once.
const maxLookUps = 16

// firstOfAll returns the sequence of the first stored message on any of these subjects, or 0. It
// asks for each, several at once, until ctx ends.
func firstOfAll(ctx context.Context, c *Config, subjects []string) (first uint64, failed error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := make(chan string)
	for range min(maxLookUps, len(subjects)) {
		wg.Go(func() {
			for subj := range next {
				n, err := firstOn(ctx, c, subj)
				mu.Lock()
				switch {
				case err != nil && failed == nil:
					failed = err
					cancel() // the others fail at once
				case err == nil && n > 0 && (first == 0 || n < first):
					first = n
				}
				mu.Unlock()
			}
		})
	}
	for _, subj := range subjects {
		next <- subj
	}
	close(next)
	wg.Wait()
	return first, failed
}

// firstOn returns the sequence of the first stored message that filter matches, or 0.
func firstOn(ctx context.Context, c *Config, filter string) (uint64, error) {
	m, _, err := c.Core.Outlet.LookUp(ctx, c.Stream.Name, outlet.Query{Sequence: 1, Next: filter})
	return m.Sequence, err
}
