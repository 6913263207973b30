package switchover

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/permissions"
)

var (
	errPreflight = fmt.Errorf("not all questions were answered within %v", preflightLimit)
	errQuestion  = fmt.Errorf("no answer came within %v", questionLimit)
)

// silentRemedy is what to do if servers do not answer, and refuse nothing.
const silentRemedy = "see that the servers run and have a leader, and that the connection to them is fast enough"

// leaderlessRemedy is what to do if streams have no leader that answers. After a crash in a switch
// that may be one of its copies.
const leaderlessRemedy = "try again in some seconds, since their servers may be about to elect leaders; if that does not help, see that those servers run"

// question returns the context of one question to a server. It ends early if the server
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

// onRefusal ends the question of now if the server refuses it. It is the error handler of
// the connections to the target, and on the way home of that to the old servers.
func (s *run) onRefusal(_ *nats.Conn, _ *nats.Subscription, err error) {
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
func (s *run) failedAt(what string, err error, remedy string) { s.unanswered("", what, err, remedy) }

// unanswered records what a server did not do.
func (s *run) unanswered(stream, what string, err error, remedy string) {
	refused, isRefused := errors.AsType[*link.RefusedError](err)
	switch {
	case isRefused:
		s.found(stream, what+": "+s.missing(refused), s.grant(refused))
	case errors.Is(err, errPreflight): // nothing is asked any more
		s.found("", errPreflight.Error(), silentRemedy)
	case s.tooOld && errors.Is(err, errQuestion): // it does not know the question
	default:
		s.found(stream, fmt.Sprintf("%s: %v", what, err), remedy)
	}
}

// missing says which permission is missing.
func (s *run) missing(e *link.RefusedError) string {
	verb := "subscribe"
	if e.Publish {
		verb = "publish"
	}
	return fmt.Sprintf("%s user may not %s to %q", s.remedy("its", "their"), verb, e.Subject)
}

// grant says what to allow.
func (s *run) grant(e *link.RefusedError) string {
	nc, beside := s.Target, permissions.Snapshots
	if s.Home != nil {
		nc, beside = s.Source, permissions.Restore
	}
	inbox := nats.InboxPrefix
	if p := nc.Opts.InboxPrefix; p != "" {
		inbox = p + "."
	}
	all := "in all it needs " + permissions.InWords(inbox, beside)
	switch {
	case strings.HasPrefix(e.Subject, permissions.Root):
		verb := "subscribe"
		if e.Publish {
			verb = "publish"
		}
		return fmt.Sprintf("let that user %s to %s; %s", verb, permissions.Own, all)
	case e.Publish && strings.HasPrefix(e.Subject, inbox):
		return fmt.Sprintf("let that user publish to %s>, or allow_responses; %s", inbox, all)
	case !e.Publish:
		return fmt.Sprintf("let that user subscribe to %s>, or use another prefix with WithInboxPrefix; %s", inbox, all)
	}
	subject := e.Subject
	if before, _, probe := strings.Cut(subject, ".omnibus-"); probe {
		subject = before + ".>"
	}
	if strings.HasPrefix(subject, "$JS.ACK.") { // it has the numbers of a message
		subject = "$JS.ACK.>"
	}
	return fmt.Sprintf("let that user publish to %s; %s", subject, all)
}

// withRefusal adds to err what the target, on the way home the old servers, have refused since the
// preflight: nobody who waits for a reply gets to know that.
func (s *run) withRefusal(err error) error {
	refused := s.refused.Load()
	if refused == nil || errors.Is(err, refused) {
		return err
	}
	return fmt.Errorf("%w (%s %s: %s)", err, s.remedy("at the target", "at the old servers"), s.missing(refused), s.grant(refused))
}
