package bus_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/internal/permissions"
	"github.com/omnibus-go/bus/switchover"
)

// A bus comes home from servers to which it identifies itself in any way, with TLS and without. The
// restart at home needs nothing of that, and a switch back to them needs it again.
func TestHomeFromServers(t *testing.T) {
	t.Parallel()
	for _, i := range identities {
		t.Run(i.name, func(t *testing.T) {
			t.Parallel()
			var c serverConfig
			access := i.set(t, &c)
			_, urls := startServers(t, 1, c)
			homeAndBack(t, urls, access)
		})
	}
}

// A bus whose user may publish the messages of its stream, and else just what the library needs,
// comes home and switches back.
func TestSwitchHomeWithFewPermissions(t *testing.T) {
	t.Parallel()
	publish, subscribe := &server.SubjectPermission{Allow: []string{"s.*"}}, &server.SubjectPermission{}
	for _, n := range permissions.All() {
		p := subscribe
		if n.Publish {
			p = publish
		}
		p.Allow = append(p.Allow, strings.Replace(n.Subject, permissions.Inbox, "ann.>", 1))
	}
	target := newTarget(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "ann", Password: "s3cret", Permissions: &server.Permissions{Publish: publish, Subscribe: subscribe}}}
	})
	homeAndBack(t, target.ClientURL(), []bus.ConnectOption{bus.WithUser("ann", "s3cret")}, bus.WithInboxPrefix("ann"))
}

// homeAndBack has a bus at a server come home while a handler runs, restarts it, and has it switch
// back. Each message is handled once.
func homeAndBack(t *testing.T, urls string, access []bus.ConnectOption, opts ...bus.Option) {
	t.Helper()
	dir, got, release := t.TempDir(), make(chan int, 100), make(chan struct{})
	opts = append(opts, bus.WithTimeout(time.Minute))
	back := []switchover.Option{switchover.MaxWait(20 * time.Second)}
	for _, o := range access {
		opts, back = append(opts, o), append(back, o.(switchover.Option))
	}
	begun := make(chan int, 1)
	handle := func(_ context.Context, m *bus.Msg[int]) error {
		if m.Data == 10 {
			begun <- m.Data
			<-release
		}
		got <- m.Data
		return nil
	}
	b := openOn(t, dir, append(opts, bus.WithURL(urls))...)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	consume(t, st, "c", "s.*", handle, bus.KeyBySubject())
	storeNumbers(t, st, 1, 10)
	receive(t, begun)
	goHome(t, b, switchover.MaxWait(20*time.Second))
	close(release)
	storeNumbers(t, st, 11, 20)
	for range 20 {
		receive(t, got)
	}
	must(t, b.Close())
	b = openOn(t, dir, opts...)
	if !healthy(t, b).Embedded {
		t.Error("the restart is not at home")
	}
	st = lookUp(t, b, "S")
	consume(t, st, "c", "s.*", handle, bus.KeyBySubject())
	switchTo(t, b, urls, back...)
	storeNumbers(t, st, 21, 30)
	for range 10 {
		receive(t, got)
	}
	if all := storedNumbers(t, st); len(all) != 30 || len(got) > 0 {
		t.Errorf("the stream has %v, and %d messages were handled again", all, len(got))
	}
}
