package link_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// cut cuts the link off.
func (m *movable) cut() {
	m.t.Helper()
	if err := m.link.Cut(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	if m.link.Conn().IsConnected() {
		m.t.Error("it is connected after the cut")
	}
}

// lead ends a cut.
func (m *movable) lead(to link.Target) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), testTimeout)
	defer cancel()
	if err := m.link.Lead(ctx, to); err != nil {
		m.t.Fatal(err)
	}
}

// awaitServer waits until the link works at s.
func (m *movable) awaitServer(s *testserver.Server) {
	m.t.Helper()
	for end := time.Now().Add(testTimeout); time.Now().Before(end); time.Sleep(time.Millisecond) {
		// After a flush the server knows the subscriptions.
		if nc := m.link.Conn(); nc.IsConnected() && nc.ConnectedServerId() == s.NATS().ID() && m.link.Flush(m.t.Context(), testTimeout) == nil {
			return
		}
	}
	m.t.Fatal("the link does not come to the server")
}

// hearAt returns what s gets on a subject.
func hearAt(t *testing.T, s *testserver.Server, subject string) <-chan string {
	t.Helper()
	got := make(chan string, 100)
	nc := s.Conn(t)
	if _, err := nc.Subscribe(subject, func(m *nats.Msg) { got <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	return got
}

// What was published before a cut is at the former server, and what is published until Lead at the
// new one. Nobody is told of a lost connection. Whatever uses the link works on, there and back.
func TestCutAndLead(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]func(*testserver.Server) link.Target{"in process": inProcess, "over TCP": overPort} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := twoServers(t)
			m := newMovable(t, a)
			m.works(a, "before")
			atA, atB := hearAt(t, a, "moved"), hearAt(t, b, "moved")
			publish := func(text string) {
				t.Helper()
				if err := m.link.Publish(&wire.Out{Subject: "moved", Data: []byte(text)}); err != nil {
					t.Fatal(err)
				}
			}
			for _, way := range []struct {
				from, to <-chan string
				server   *testserver.Server
				target   link.Target
			}{{atA, atB, b, target(b)}, {atB, atA, a, inProcess(a)}} {
				publish("before the cut")
				if err := m.link.Flush(t.Context(), testTimeout); err != nil {
					t.Fatal(err)
				}
				m.cut()
				publish("during the cut")
				m.lead(way.target)
				m.leadsTo(way.server)
				if got := m.link.Target().URL; got != way.target.URL {
					t.Errorf("Target is %q", got)
				}
				m.works(way.server, "after")
				if got := next(t, way.from, "the message before the cut"); got != "before the cut" {
					t.Errorf("the former server got %q", got)
				}
				if got := next(t, way.to, "the message during the cut"); got != "during the cut" {
					t.Errorf("the new server got %q", got)
				}
				none(t, way.from, "a second message at the former server")
			}
			none(t, m.told.disconnected, "a disconnect")
		})
	}
}

// A Lead whose target does not answer in time says so, and goes on to dial that target alone. The
// link never goes back by itself.
func TestLeadToATargetThatComesLater(t *testing.T) {
	t.Parallel()
	a, b := twoServers(t)
	m := newMovable(t, a)
	to := overPort(b)
	b.Stop()
	m.cut()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errLate)
	defer cancel()
	if err := m.link.Lead(ctx, to); !errors.Is(err, errLate) {
		t.Errorf("Lead = %v", err)
	}
	if m.link.Conn().IsConnected() {
		t.Error("it is connected")
	}
	b.Restart()
	m.awaitServer(b)
	m.works(b, "after")
	m.cut() // it is free for the next one
	m.lead(inProcess(a))
	m.works(a, "back")
}

var errLate = errors.New("too late")

// A Lead whose context ends at any moment, also before it begins, does not keep the link from
// coming to its target: what the end of the context starts must not run after Lead.
func TestLeadWithoutTime(t *testing.T) {
	t.Parallel()
	a, b := twoServers(t)
	m := newMovable(t, a)
	for round := range 40 {
		s, to := b, overPort(b)
		if round%2 == 1 {
			s, to = a, inProcess(a)
		}
		m.cut()
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Duration(round/2%10)*50*time.Microsecond, errLate)
		if err := m.link.Lead(ctx, to); err != nil && !errors.Is(err, errLate) {
			t.Fatalf("Lead = %v", err)
		}
		cancel()
		m.awaitServer(s)
	}
	m.works(a, "after")
}

// A second Cut waits for Lead until its context ends. Neither does anything on a closed link.
func TestCutInVain(t *testing.T) {
	t.Parallel()
	a, b := twoServers(t)
	m := newMovable(t, a)
	m.cut()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errLate)
	defer cancel()
	if err := m.link.Cut(ctx); !errors.Is(err, errLate) {
		t.Errorf("a second Cut = %v", err)
	}
	m.lead(inProcess(b))
	m.works(b, "after")
	m.link.Close()
	for range 2 {
		if err := m.link.Cut(t.Context()); !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("Cut = %v", err)
		}
	}
}

// A link that is closed between Cut and Lead ends, and Lead says so.
func TestCloseDuringACut(t *testing.T) {
	t.Parallel()
	a, b := twoServers(t)
	m := newMovable(t, a)
	m.cut()
	m.link.Close()
	if err := m.link.Lead(t.Context(), inProcess(b)); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("Lead = %v", err)
	}
}

// The options of the target replace how the link identifies itself. A target that refuses it is
// dialled until Lead leads elsewhere.
func TestLeadWithAccess(t *testing.T) {
	t.Parallel()
	a, _ := twoServers(t)
	locked := testserver.New(t, testserver.WithPort, func(o *server.Options) { o.Username, o.Password = "ann", "secret" })
	m := newMovable(t, a)
	for password, want := range map[string]error{"wrong": errLate, "secret": nil} {
		m.cut()
		ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errLate)
		if want == nil {
			ctx, cancel = context.WithTimeout(t.Context(), testTimeout)
		}
		err := m.link.Lead(ctx, link.Target{URL: locked.ClientURL(), Access: []nats.Option{nats.UserInfo("ann", password)}})
		cancel()
		if !errors.Is(err, want) {
			t.Errorf("%s: Lead = %v", password, err)
		}
		m.cut()
		m.lead(inProcess(a))
		m.works(a, "back from "+password)
	}
}

// What is published while the link is cut is at one of the servers, and never at both. Once the
// former server has lost the link nothing comes to it any more.
func TestCutWhilePublishing(t *testing.T) {
	t.Parallel()
	const senders, each = 4, 500
	for range 5 {
		a, b := twoServers(t)
		m := newMovable(t, a)
		atA, atB := countAt(t, a), countAt(t, b)
		var sent sync.WaitGroup
		for i := range senders {
			sent.Go(func() {
				for n := range each {
					if err := m.link.Publish(&wire.Out{Subject: "moved", Data: fmt.Append(nil, i, " ", n)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		clients := a.NATS().NumClients()
		m.cut()
		for a.NATS().NumClients() >= clients {
			runtime.Gosched()
		}
		former := atA()
		m.lead(inProcess(b))
		sent.Wait()
		if err := m.link.Flush(t.Context(), testTimeout); err != nil {
			t.Fatal(err)
		}
		late, moved := atA(), atB()
		if late != former || former+moved != senders*each {
			t.Fatalf("the former server has %d, later %d, the new one %d, of %d", former, late, moved, senders*each)
		}
	}
}

// countAt returns how many messages have come to s on the subject moved.
func countAt(t *testing.T, s *testserver.Server) (count func() int) {
	t.Helper()
	nc := s.Conn(t)
	sub, err := nc.SubscribeSync("moved")
	if err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	return func() int {
		flush(t, nc)
		n, _, err := sub.Pending()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}
