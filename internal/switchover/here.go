package switchover

import (
	"context"
	"errors"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// listHere lists the streams of the old server. It returns false if more questions make no sense.
func (s *run) listHere(ctx context.Context) (all []*jetstream.StreamInfo, listed bool) {
	ctx, end := s.question(ctx)
	defer end()
	all, err := streams(ctx, s.Source)
	if silent, ok := errors.AsType[*silentError](err); ok {
		s.foundSilent(silent.names)
		err = nil
	}
	if err != nil {
		s.failedHere("", "the streams cannot be listed", err)
	}
	return all, err == nil
}

// foundSilent records streams of the old servers that have no leader.
func (s *run) foundSilent(names []string) {
	var staying []string
	for _, name := range names {
		if s.Home != nil && !slices.Contains(s.Home.Streams(), name) {
			staying = append(staying, name)
			continue
		}
		s.failedHere(name, "it cannot be looked up", &silentError{[]string{name}})
	}
	if len(staying) > 0 {
		s.warn("no leader answers for these streams, which stay: %v; one that copies a stream of this bus gets nothing more of it", staying)
	}
}

// consumersHere lists the consumers of a stream of the old server.
func (s *run) consumersHere(ctx context.Context, stream string) []*jetstream.ConsumerInfo {
	ctx, end := s.question(ctx)
	defer end()
	all, err := consumers(ctx, s.sourceJS, stream)
	if err != nil {
		s.failedHere(stream, "its consumers cannot be listed", err)
	}
	return all
}

// failedHere records what the old server did not do, about one stream or all.
func (s *run) failedHere(stream, what string, err error) {
	s.unanswered(stream, what+s.remedy("", " at the old servers"), err, s.remedy("see what the log of the embedded server says of that, and try again", leaderlessRemedy))
}
