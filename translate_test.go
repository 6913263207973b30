package bus_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
)

// denied is what the user "u" of denyingBus may not do.
type denied struct{ publish, subscribe []string }

// denyingBus returns a bus with a stream S of "s.>", and a bus that is connected to it as a user
// that may not do everything.
func denyingBus(t *testing.T, d denied, opts ...bus.ConnectOption) (home, guest *bus.Bus) {
	t.Helper()
	home = bustest.New(t, anyPort(), bus.WithServerOptions(func(o *server.Options) {
		o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Deny: d.publish},
			Subscribe: &server.SubjectPermission{Deny: d.subscribe},
		}}}
	}))
	second(home.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}}))
	guest, err := bus.Connect(t.Context(), home.ClientURL(), append(opts, bus.WithUser("u", "p"), bus.WithLogger(silent()))...)
	must(t, err)
	t.Cleanup(func() { must(t, guest.Close()) })
	return home, guest
}

// refusedSubject fails the test unless err says at once that the server refuses subject.
func refusedSubject(t *testing.T, began time.Time, err error, subject string) {
	t.Helper()
	e := asError[*bus.SubjectError](t, err, subject, "allow the user")
	if e.Subject != subject || !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("the error is %v, want the refusal of %q", err, subject)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the refusal of %q took %v", subject, took)
	}
}

// What the server refuses for lack of a permission is an error of the call that wanted it, at once.
func TestMissingPermissionOfCalls(t *testing.T) {
	t.Parallel()
	noAPI := func(op string) denied { return denied{publish: []string{"$JS.API." + op + ".>"}} }
	stream := func(t *testing.T, b *bus.Bus) *bus.Stream {
		t.Helper()
		st, err := b.LookupStream(t.Context(), "S")
		must(t, err)
		return st
	}
	noPublish := denied{publish: []string{"s.x", "x", "ask"}}
	publish := func(t *testing.T, b *bus.Bus) error { return bus.Publish(t.Context(), b, "x", 1) }
	consume := func(t *testing.T, b *bus.Bus) error {
		return second(bus.Consume(t.Context(), stream(t, b), "d", "s.>", ignore[int]))
	}
	consumeKeys := func(t *testing.T, b *bus.Bus) error {
		return second(bus.Consume(t.Context(), stream(t, b), "d", "s.>", ignore[int], bus.KeyBySubject()))
	}
	tests := map[string]struct {
		denied  denied
		call    func(t *testing.T, b *bus.Bus) error
		subject string
	}{
		"Publish": {noPublish, publish, "x"},
		"Publish again": {noPublish, func(t *testing.T, b *bus.Bus) error {
			return errors.Join(publish(t, b), publish(t, b), publish(t, b))
		}, "x"},
		"Publish where another was accepted": {noPublish, func(t *testing.T, b *bus.Bus) error {
			must(t, bus.Publish(t.Context(), b, "y", 1))
			return publish(t, b)
		}, "x"},
		"PublishBatch": {noPublish, func(t *testing.T, b *bus.Bus) error {
			return bus.PublishBatch(t.Context(), b, "x", []int{1, 2, 3})
		}, "x"},
		"Request": {noPublish, func(t *testing.T, b *bus.Bus) error {
			return second(bus.Request[int](t.Context(), b, bus.Endpoint[int, int]("ask"), 1))
		}, "ask"},
		"PublishTo": {noPublish, func(t *testing.T, b *bus.Bus) error {
			return second(bus.PublishTo(t.Context(), stream(t, b), "s.x", 1))
		}, "s.x"},
		"PublishTo with an ID": {noPublish, func(t *testing.T, b *bus.Bus) error {
			return second(bus.PublishTo(t.Context(), stream(t, b), "s.x", 1, bus.AutoID()))
		}, "s.x"},
		"PublishToAsync": {noPublish, func(t *testing.T, b *bus.Bus) error {
			st := stream(t, b)
			must(t, second(bus.PublishToAsync(t.Context(), st, "s.y", 1)))
			f, err := bus.PublishToAsync(t.Context(), st, "s.x", 1)
			must(t, err)
			return second(f.Wait(t.Context()))
		}, "s.x"},
		"Subscribe": {denied{subscribe: []string{"x"}}, func(_ *testing.T, b *bus.Bus) error {
			return second(bus.Subscribe(b, "x", ignore[int]))
		}, "x"},
		"Respond": {denied{subscribe: []string{"ask"}}, func(_ *testing.T, b *bus.Bus) error {
			return second(bus.Respond(b, bus.Endpoint[int, int]("ask"), double))
		}, "ask"},
		"LookupStream": {noAPI("STREAM.INFO"), func(t *testing.T, b *bus.Bus) error {
			return second(b.LookupStream(t.Context(), "S"))
		}, "$JS.API.STREAM.INFO.S"},
		"Stream": {noAPI("STREAM.CREATE"), func(t *testing.T, b *bus.Bus) error {
			return second(b.Stream(t.Context(), bus.StreamConfig{Name: "T", Subjects: []string{"t.>"}}))
		}, "$JS.API.STREAM.CREATE.T"},
		"change of a Stream": {noAPI("STREAM.UPDATE"), func(t *testing.T, b *bus.Bus) error {
			return second(b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.>", "t.>"}}))
		}, "$JS.API.STREAM.UPDATE.S"},
		"Delete": {noAPI("STREAM.DELETE"), func(t *testing.T, b *bus.Bus) error {
			return stream(t, b).Delete(t.Context())
		}, "$JS.API.STREAM.DELETE.S"},
		"Purge": {noAPI("STREAM.PURGE"), func(t *testing.T, b *bus.Bus) error {
			return second(stream(t, b).Purge(t.Context(), bus.PurgeFilter{}))
		}, "$JS.API.STREAM.PURGE.S"},
		"Consume without consumers":         {noAPI("CONSUMER.CREATE"), consume, "$JS.API.CONSUMER.CREATE.S.d.s.>"},
		"Consume without messages":          {noAPI("CONSUMER.MSG.NEXT"), consume, "$JS.API.CONSUMER.MSG.NEXT.S.d"},
		"Consume without acknowledgements":  {denied{publish: []string{"$JS.ACK.>"}}, consume, "$JS.ACK.S.d.1.0.0.0.0"},
		"Consume without side streams":      {noAPI("STREAM.CREATE"), consume, "$JS.API.STREAM.CREATE.S-dead"},
		"Consume without dead letters":      {denied{publish: []string{"$OMNIBUS.>"}}, consume, "$OMNIBUS.dead.S.d.probe"},
		"Consume without retries":           {denied{publish: []string{"$OMNIBUS.retry.>"}}, consume, "$OMNIBUS.retry.S.d.probe"},
		"Consume with keys, no lease":       {denied{publish: []string{"$OMNIBUS.keys.>"}}, consumeKeys, "$OMNIBUS.keys.S.d.probe"},
		"Consume with keys, no messages":    {denied{publish: []string{"$OMNIBUS.crew.>"}}, consumeKeys, "$OMNIBUS.crew.S.d.probe"},
		"Consume with keys, none of others": {denied{subscribe: []string{"$OMNIBUS.>"}}, consumeKeys, "$OMNIBUS.crew.S.d.probe"},
		"replies": {denied{subscribe: []string{"_INBOX.>"}}, func(t *testing.T, b *bus.Bus) error {
			isError(t, second(b.LookupStream(t.Context(), "S")), bus.ErrUnknownOutcome)
			return second(b.LookupStream(t.Context(), "S"))
		}, "_INBOX.>"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, b := denyingBus(t, test.denied)
			began := time.Now()
			refusedSubject(t, began, test.call(t, b), test.subject)
		})
	}
}

// A refused message that no call waits for is reported, and not for each message.
func TestMissingPermissionOfPublishAsync(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	_, b := denyingBus(t, denied{publish: []string{"x"}}, record)
	for range 100 {
		must(t, bus.PublishAsync(t.Context(), b, "x", 1))
	}
	must(t, b.Flush(t.Context()))
	e := nextEvent(t, events, event.PublishFailed)
	refusedSubject(t, time.Now(), e.Err, "x")
	refusedSubject(t, time.Now(), bus.Publish(t.Context(), b, "x", 1), "x")
	nothing(t, events)
}

// A permission that is granted later counts at once, without a new connection.
func TestMissingPermissionIsGranted(t *testing.T) {
	t.Parallel()
	var opts *server.Options
	s := external(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{"x"}},
		}}}
		opts = o
	})
	b, err := bus.Connect(t.Context(), s.ClientURL(), bus.WithUser("u", "p"), bus.WithLogger(silent()))
	must(t, err)
	defer func() { must(t, b.Close()) }()
	refusedSubject(t, time.Now(), bus.Publish(t.Context(), b, "x", 1), "x")
	granted := opts.Clone()
	granted.Users = []*server.User{{Username: "u", Password: "p"}}
	must(t, s.ReloadOptions(granted))
	must(t, bus.Publish(t.Context(), b, "x", 1))
	if n := b.Stats().Disconnects; n != 0 {
		t.Errorf("the bus was disconnected %d times", n)
	}
}

// permitting authenticates all clients, as a user with the latest permissions.
type permitting struct {
	atomic.Pointer[server.Permissions]
}

// Check implements server.Authentication.
func (p *permitting) Check(c server.ClientAuthentication) bool {
	c.RegisterUser(&server.User{Username: "u", Permissions: p.Load()})
	return true
}

// A consumer whose permissions are gone after a reconnect says so by Health at once, with the
// subject, and not any more when they are back after the next one.
func TestMissingPermissionIsInHealth(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		denied  server.Permissions
		subject string
	}{
		"publish":   {server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$OMNIBUS.>"}}}, `"$OMNIBUS.keys.S.d.settled"`},
		"subscribe": {server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"$OMNIBUS.>"}}}, `"$OMNIBUS.crew.S.d.lead.`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var users permitting
			s := external(t, func(o *server.Options) { o.CustomClientAuthentication = &users })
			b, err := bus.Connect(t.Context(), s.ClientURL(), bus.WithLogger(silent()))
			must(t, err)
			defer func() { must(t, b.Close()) }()
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
			h, arrived := collect[int](10)
			consume(t, st, "d", "s.>", h, bus.KeyBySubject())
			must(t, second(bus.PublishTo[int](t.Context(), st, "s.a", 1)))
			receive(t, arrived) // it owns the durable
			users.Store(&test.denied)
			must(t, b.Conn().ForceReconnect())
			must(t, second(bus.PublishTo[int](t.Context(), st, "s.a", 2, bus.AutoID())))
			eventually(t, "Health to name the subject", func() bool {
				r := b.Health(t.Context())
				return r.Status == health.Degraded && strings.Contains(fmt.Sprint(r.Problems), "the server refuses what it needs: subject "+test.subject)
			})
			users.Store(nil)
			must(t, b.Conn().ForceReconnect())
			eventually(t, "Health to forget it", func() bool { return b.Health(t.Context()).Status == health.Healthy })
		})
	}
}
