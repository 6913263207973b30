package switchover

import (
	"cmp"
	"context"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/permissions"
)

// checkPermissions finds out whether the user may do what a switch does at the target, and what
// the bus does there afterwards: it tries everything that permissions.All lists. It asks about a
// stream that does not exist.
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
		s.tryPublish(ctx, s.Target, c.subject, c.what)
	}
	for _, tokens := range permissions.OfDurable(probe, "c", true) {
		if !s.tryPublish(ctx, s.Target, tokens+".1", "consumers cannot store dead letters, retries and keys at the target") {
			break // one permission is for all
		}
	}
	if s.Home != nil {
		s.tryPublish(ctx, s.Source, "$JS.API.CONSUMER.INFO."+probe+".c", "consumers cannot be looked up at the old servers")
		s.tryPublish(ctx, s.Source, "$JS.SNAPSHOT.ACK."+probe, "the chunks of a snapshot cannot be acknowledged at the old servers")
		s.tryPublish(ctx, s.Source, "$JS.ACK."+probe+".c.1.1.1.0.0", "messages cannot be acknowledged at the old servers")
	}
	s.tryCrew(ctx, permissions.Crew+probe+".c.1")
	s.tryDiscovery(ctx, "$SRV.PING."+s.ID)
}

// tryPublish finds out whether messages to a subject are refused. It asks for no reply, since
// nobody may give one: others may read everything at the target. It reports whether they are not.
func (s *run) tryPublish(ctx context.Context, nc *nats.Conn, subject, what string) (allowed bool) {
	ctx, end := s.question(ctx)
	defer end()
	err := nc.Publish(subject, []byte("{}"))
	if err == nil {
		err = awaitRefusal(ctx, nc, true, subject)
	}
	if err != nil {
		s.failedAt(what, err, silentRemedy)
	}
	return err == nil
}

// tryCrew finds out whether processes can share a durable with keys: it answers a request of its
// own, as the owner of a durable answers a member.
func (s *run) tryCrew(ctx context.Context, subject string) {
	ctx, end := s.question(ctx)
	defer end()
	leave, err := s.subscribe(ctx, subject, func(m *nats.Msg) { _ = m.Respond(nil) })
	defer leave()
	if err == nil {
		_, err = s.Target.RequestWithContext(ctx, subject, nil)
	}
	if err = because(ctx, err); err != nil {
		s.failedAt("processes cannot share durables with keys at the target", err, silentRemedy)
	}
}

// tryDiscovery warns if responders will not be found at the target. They work all the same.
func (s *run) tryDiscovery(ctx context.Context, subject string) {
	ctx, end := s.question(ctx)
	defer end()
	leave, err := s.subscribe(ctx, subject, func(*nats.Msg) {})
	defer leave()
	if isRefusal(err) {
		s.refused.Store(nil)
		s.warn("responders will not be discovered at the target: its user may not subscribe to $SRV.>")
	}
}

// subscribe subscribes at the target until leave is called, also after an error. It fails if the
// server refuses that.
func (s *run) subscribe(ctx context.Context, subject string, take nats.MsgHandler) (leave func(), err error) {
	sub, err := s.Target.Subscribe(subject, take)
	if err != nil {
		return func() {}, err
	}
	return func() { _ = sub.Unsubscribe() }, awaitRefusal(ctx, s.Target, false, subject) // the connection may be gone
}

// awaitRefusal returns why the server refuses a message to a subject, or a subscription, which was
// sent before. ctx is that of a question, which the report of nats.go ends. awaitRefusal waits for that
// report, so that no later question ends.
func awaitRefusal(ctx context.Context, nc *nats.Conn, publish bool, subject string) error {
	err := nc.FlushWithContext(ctx)
	if err == nil {
		if r := link.Refused(nc.LastError()); r != nil && r.Publish == publish && r.Subject == subject {
			<-ctx.Done()
		}
	}
	return because(ctx, cmp.Or(err, ctx.Err()))
}
