package switchover

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
)

var (
	errPreflight = fmt.Errorf("the target did not answer all questions within %v", preflightLimit)
	errQuestion  = fmt.Errorf("no answer came within %v", questionLimit)
)

// silentRemedy is what to do if the target does not answer, and refuses nothing.
const silentRemedy = "see that the servers of the target run and have a leader, and that the connection to them is fast enough"

// question returns the context of one question to the target. It ends early if the server
// refuses it: whoever waits for a reply gets none then.
func (s *run) question(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithTimeoutCause(ctx, questionLimit, errQuestion)
	ctx, refuse := context.WithCancelCause(ctx)
	s.refuse.Store(&refuse)
	return ctx, func() {
		s.refuse.Store(nil)
		refuse(nil)
		cancel()
	}
}

// onTargetError ends the question of now if the server refuses it. It is the error handler of
// the connections to the target.
func (s *run) onTargetError(_ *nats.Conn, _ *nats.Subscription, err error) {
	refused := link.Refused(err)
	if refused == nil {
		return
	}
	s.refused.Store(refused)
	if refuse := s.refuse.Load(); refuse != nil {
		(*refuse)(refused)
	}
}

// isRefusal reports whether err says that a permission is missing.
func isRefusal(err error) bool {
	_, refused := errors.AsType[*link.RefusedError](err)
	return refused
}

// failedAt records what the target did not do. remedy is for the case that no permission is
// missing.
func (s *run) failedAt(what string, err error, remedy string) {
	if refused, ok := errors.AsType[*link.RefusedError](err); ok {
		s.found("", what+": "+missing(refused), s.grant(refused))
		return
	}
	s.found("", fmt.Sprintf("%s: %v", what, err), remedy)
}

// missing says which permission is missing.
func missing(e *link.RefusedError) string {
	verb := "subscribe"
	if e.Publish {
		verb = "publish"
	}
	return fmt.Sprintf("its user may not %s to %q", verb, e.Subject)
}

// grant says what to allow.
func (s *run) grant(e *link.RefusedError) string {
	inbox := nats.InboxPrefix
	if p := s.Target.Opts.InboxPrefix; p != "" {
		inbox = p + "."
	}
	all := fmt.Sprintf("a switch needs publish to $JS.API.>, $JS.SNAPSHOT.RESTORE.> and $JS.ACK.>, and subscribe to %s>", inbox)
	if !e.Publish {
		return fmt.Sprintf("let that user subscribe to %s>, or use another prefix with WithInboxPrefix; %s", inbox, all)
	}
	subject := e.Subject
	if before, _, probe := strings.Cut(subject, ".omnibus-"); probe {
		subject = before + ".>"
	}
	return fmt.Sprintf("let that user publish to %s; %s", subject, all)
}

// withRefusal adds to err, with which the switch failed after the preflight, what the target
// has refused since: nobody who waits for a reply gets to know that.
func (s *run) withRefusal(err error) error {
	refused := s.refused.Load()
	if refused == nil || errors.Is(err, refused) {
		return err
	}
	return fmt.Errorf("%w (at the target %s: %s)", err, missing(refused), s.grant(refused))
}

// checkPermissions finds out whether the user may do what a switch does at the target, and what
// the consumers of the bus do there afterwards. It asks about a stream that does not exist.
func (s *run) checkPermissions(ctx context.Context) {
	probe := replicaProbe + s.ID
	for _, c := range []struct{ subject, what string }{
		{"$JS.API.STREAM.RESTORE." + probe, "streams cannot be restored at the target"},
		{"$JS.SNAPSHOT.RESTORE." + probe, "the chunks of a restore cannot be sent to the target"},
		{"$JS.API.STREAM.UPDATE." + probe, "streams cannot be changed at the target"},
		{"$JS.API.STREAM.PURGE." + probe, "messages cannot be removed at the target"},
		{"$JS.API.STREAM.MSG.DELETE." + probe, "single messages cannot be removed at the target"},
		{"$JS.API.CONSUMER.INFO." + probe + ".c", "consumers cannot be looked up at the target"},
		{"$JS.API.CONSUMER.MSG.NEXT." + probe + ".c", "consumers cannot ask for messages at the target"},
		{"$JS.ACK." + probe + ".c.1.1.1.0.0", "messages cannot be acknowledged at the target"},
	} {
		ctx, end := s.question(ctx)
		_, err := s.Target.RequestWithContext(ctx, c.subject, []byte("{}"))
		err = because(ctx, err)
		end()
		if err != nil && !errors.Is(err, nats.ErrNoResponders) {
			s.failedAt(c.what, err, silentRemedy)
		}
	}
}
