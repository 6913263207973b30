package switchover

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A server that is no node of a cluster goes through its streams without a lock when the first
// chunk of a restore has come (nats-server 2.15.2, tieredReservation). A stream that another
// restore makes at that moment, or that is deleted, can end that process: "concurrent map
// iteration and map write". So a switch makes and deletes streams there one after the other.

// turnGrace is how long the target may take to make a stream when it has what it needs.
const turnGrace = 50 * time.Millisecond

// makesInTurn reports whether the target is a server alone.
func (s *run) makesInTurn() bool { return s.report.Replicas == 1 }

// turn waits until this switch makes or deletes no stream. end lets the next one go on; it may be
// called again.
func (s *run) turn(ctx context.Context) (end func(), err error) {
	select {
	case s.making <- struct{}{}:
	case <-ctx.Done():
		return func() {}, context.Cause(ctx)
	}
	ended := false
	return func() {
		if !ended {
			ended = true
			<-s.making
		}
	}, nil
}

// removeOne deletes a copy of this switch while others may be made.
func (s *run) removeOne(ctx context.Context, name string) error {
	if s.makesInTurn() {
		end, err := s.turn(ctx)
		if err != nil {
			return err
		}
		defer end()
	}
	return s.discard(ctx, name)
}

// discard deletes a copy. Those of a switch home have no mark.
func (s *run) discard(ctx context.Context, name string) error {
	if s.Home == nil {
		return s.removeOwn(ctx, name)
	}
	if err := s.targetJS.DeleteStream(ctx, name); !errors.Is(err, jetstream.ErrStreamNotFound) {
		return because(ctx, err)
	}
	return nil
}

// endTurn lets the next stream be made as soon as the target has the one of c. If the chunks until
// now are too few for that, the turn goes on.
func (c *copier) endTurn(ctx context.Context) {
	if c.mayOthers == nil {
		return
	}
	for began := time.Now(); time.Since(began) < turnGrace; {
		if _, err := look(ctx, c.s.targetJS, c.name); !errors.Is(err, jetstream.ErrStreamNotFound) {
			c.mayOthers()
			c.mayOthers = nil
			return
		}
		if sleep(ctx, pollPause) != nil {
			return
		}
	}
}
