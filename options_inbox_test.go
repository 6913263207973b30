package bus_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// useInboxes does everything for which something comes to an inbox.
func useInboxes(t *testing.T, b *bus.Bus) {
	t.Helper()
	ctx := t.Context()
	must(t, second(bus.Respond(b, "ask", double)))
	v, err := bus.Request(ctx, b, bus.Endpoint[int, int]("ask"), 2)
	if v != 4 || err != nil {
		t.Errorf("Request = %d, %v", v, err)
	}
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, AtomicBatches: true})
	const s bus.Subject[int] = "s.x"
	for _, opts := range [][]bus.ConsumeOption{nil, {bus.KeyBySubject()}} {
		h, arrived := collect[int](4)
		c, err := bus.Consume(ctx, st, "d"+strings.Repeat("k", len(opts)), s, h, opts...)
		must(t, err)
		if opts == nil {
			must(t, second(bus.PublishTo(ctx, st, s, 1)))
			f, err := bus.PublishToAsync(ctx, st, s, 2)
			must(t, err)
			must(t, second(f.Wait(ctx)))
			must(t, second(bus.PublishToBatch(ctx, st, bus.ItemOf(s, 3), bus.ItemOf(s, 4))))
		}
		for range 4 {
			receive(t, arrived)
		}
		must(t, c.Pause(ctx, time.Now().Add(time.Hour)))
	}
	n := 0
	for _, err := range bus.Replay(ctx, st, s) {
		must(t, err)
		n++
	}
	if n != 4 {
		t.Errorf("Replay returned %d messages", n)
	}
}

// Who may send requests to the port of an embedded server may subscribe to "_INBOX.>". That
// must not show what the bus receives.
func TestInboxesAreOfTheirOwn(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort())
	nc := rawClient(t, b)
	seen := make(chan *nats.Msg, 1000)
	must(t, second(nc.ChanSubscribe("_INBOX.>", seen)))
	flushRaw(t, nc)
	useInboxes(t, b)
	flushRaw(t, nc)
	if len(seen) > 0 {
		t.Errorf("a client sees %d messages of the bus, the first on %s", len(seen), (<-seen).Subject)
	}
	if other := bustest.New(t); !strings.HasPrefix(b.Conn().NewInbox(), "_INBOX_") || b.Conn().NewInbox()[:15] == other.Conn().NewInbox()[:15] {
		t.Errorf("two buses have inboxes such as %s and %s", b.Conn().NewInbox(), other.Conn().NewInbox())
	}
}

// With a prefix of its own a bus does with the right to subscribe to that.
func TestWithInboxPrefix(t *testing.T) {
	t.Parallel()
	host := bustest.New(t, anyPort(), bus.WithServerOptions(func(o *server.Options) {
		o.Users = []*server.User{{Username: "shop", Password: "p", Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_shop.>", "ask", "$SRV.>", "$OMNIBUS.crew.>"}},
		}}}
	}))
	b, err := bus.Connect(t.Context(), host.ClientURL(), bus.WithUser("shop", "p"), bus.WithInboxPrefix("_INBOX_shop"), bus.WithLogger(silent()))
	must(t, err)
	defer func() { must(t, b.Close()) }()
	useInboxes(t, b)
	if inbox := b.Conn().NewInbox(); !strings.HasPrefix(inbox, "_INBOX_shop.") {
		t.Errorf("an inbox is %s", inbox)
	}
}

func TestWithInboxPrefixRefuses(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"", "a.>", "a.*", "a.", ".a", "a b", "$JS", strings.Repeat("a", 65)} {
		asError[*bus.OptionError](t, second(bus.New(bus.WithInboxPrefix(prefix))), "WithInboxPrefix")
	}
}
