package link_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// nats.go itself uses its pool of timers when a connection comes back, so tests
// with a reconnect run in real time, the others in bubbles.

// reconnect has l lose its connection and waits until it is back.
func reconnect(t *testing.T, l *link.Link, to *told) (maxPayload int) {
	t.Helper()
	if err := l.Conn().ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	next(t, to.disconnected, "the loss of the connection")
	return next(t, to.reconnected, "the connection")
}

func TestFlush(t *testing.T) {
	t.Parallel()
	const fallback = 3 * time.Second
	for _, tc := range []struct {
		name    string
		flush   func(context.Context, *link.Link, *peer) error
		want    error
		took    time.Duration
		answers bool
	}{
		{"is confirmed", func(ctx context.Context, l *link.Link, _ *peer) error { return l.Flush(ctx, fallback) }, nil, 0, true},
		{"gives up after the fallback", func(ctx context.Context, l *link.Link, _ *peer) error { return l.Flush(ctx, fallback) },
			context.DeadlineExceeded, fallback, false},
		{"has a deadline of its own", func(ctx context.Context, l *link.Link, _ *peer) error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return l.Flush(ctx, fallback)
		}, context.DeadlineExceeded, time.Minute, false},
		{"is cancelled", func(ctx context.Context, l *link.Link, _ *peer) error {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return l.Flush(ctx, fallback)
		}, context.Canceled, time.Second, false},
		{"on a closed link", func(ctx context.Context, l *link.Link, _ *peer) error {
			l.Close()
			return l.Flush(ctx, fallback)
		}, nats.ErrConnectionClosed, 0, true},
		{"on a link that closes", func(ctx context.Context, l *link.Link, _ *peer) error {
			time.AfterFunc(time.Second, l.Close)
			return l.Flush(ctx, fallback)
		}, nats.ErrConnectionClosed, time.Second, false},
		{"loses the connection", func(ctx context.Context, l *link.Link, p *peer) error {
			time.AfterFunc(time.Second, func() { _ = p.Close() })
			return l.Flush(ctx, fallback)
		}, link.ErrDisconnected, time.Second, false},
		{"without a connection", func(ctx context.Context, l *link.Link, p *peer) error {
			_ = p.Close()
			synctest.Wait()
			return l.Flush(ctx, fallback)
		}, context.DeadlineExceeded, fallback, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p, first := newPeer(t)
				if tc.answers {
					close(p.answer)
				}
				var r route
				r.to(first)
				l, _ := open(t, r.Dial)
				r.to(nowhere)
				began := time.Now()
				err := tc.flush(t.Context(), l, p)
				if took := time.Since(began); !errors.Is(err, tc.want) || took != tc.took {
					t.Errorf("got %v after %v, want %v after %v", err, took, tc.want, tc.took)
				}
			})
		})
	}
}

// Flush returns when the server has processed what was sent before, not sooner.
func TestFlushWaitsForTheServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, dial := newPeer(t)
		l, _ := open(t, dial)
		if err := l.Publish(&wire.Out{Subject: "a", Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		go func() { result <- l.Flush(t.Context(), time.Hour) }()
		next(t, p.pings, "the ping")
		for _, want := range []string{"PUB a 1", "x"} { // after CONNECT
			for line := ""; line != want; line = next(t, p.lines, want) {
			}
		}
		synctest.Wait()
		none(t, result, "the end of the flush")
		p.say("PONG\r\n")
		if err := next(t, result, "the end of the flush"); err != nil {
			t.Error(err)
		}
	})
}

// The connection follows the dialer from one server in this process to another,
// with its subscriptions, and learns the other's limit before it tells anyone.
func TestRedialInProcess(t *testing.T) {
	t.Parallel()
	small := testserver.New(t, func(o *server.Options) { o.MaxPayload = 1000 })
	large := testserver.New(t, func(o *server.Options) { o.MaxPayload = 2000 })
	var r route
	r.to(small.InProcessConn)
	l, to := open(t, r.Dial)
	hooked := make(chan int, 10)
	l.OnReconnect(func() { hooked <- l.MaxPayload() })
	got := make(chan string, 10)
	if _, err := l.Conn().Subscribe("a", func(m *nats.Msg) { got <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if n := l.MaxPayload(); n != 1000 {
		t.Errorf("the limit is %d, want 1000", n)
	}
	publish := func(s *testserver.Server, text string) {
		t.Helper()
		nc := s.Conn(t)
		if err := errors.Join(l.Flush(t.Context(), testTimeout), nc.Publish("a", []byte(text))); err != nil {
			t.Fatal(err)
		}
		flush(t, nc)
		if v := next(t, got, text); v != text {
			t.Errorf("got %q, want %q", v, text)
		}
	}
	publish(small, "one")

	r.to(large.InProcessConn)
	small.Stop() // the connection notices by itself
	next(t, to.disconnected, "the loss of the connection")
	if n := next(t, to.reconnected, "the connection"); n != 2000 {
		t.Errorf("the owner saw the limit %d, want 2000", n)
	}
	if n := next(t, hooked, "the hook"); n != 2000 {
		t.Errorf("the hook saw the limit %d, want 2000", n)
	}
	publish(large, "two")

	again := testserver.New(t, func(o *server.Options) { o.MaxPayload = 500 })
	r.to(again.InProcessConn)
	if n := reconnect(t, l, to); n != 500 || l.MaxPayload() != 500 {
		t.Errorf("the owner saw the limit %d, then %d, want 500", n, l.MaxPayload())
	}
	publish(again, "three")
	none(t, to.closed, "the end")
}

// A link that its server refuses for a while comes back all the same: two
// refusals in a row would end another connection for good.
func TestLinkSurvivesRefusals(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	guarded := testserver.New(t, testserver.WithPort, func(o *server.Options) { o.Authorization = "s3cret" })
	var r route
	r.to(s.InProcessConn)
	l, to := open(t, r.Dial)
	r.to(guarded.DialTCP)
	if err := l.Conn().ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	next(t, to.disconnected, "the loss of the connection")
	for range 3 {
		f := next(t, to.failed, "a refusal")
		if !errors.Is(f.err, nats.ErrAuthorization) || f.subject != "" {
			t.Errorf("the failure is %+v", f)
		}
	}
	r.to(s.InProcessConn)
	next(t, to.reconnected, "the connection")
	if err := l.Flush(t.Context(), testTimeout); err != nil {
		t.Error(err)
	}
	none(t, to.closed, "the end")
}

// The owner is told of the loss with its reason, and of the end.
func TestLinkTellsOfLossAndEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, first := newPeer(t)
		var r route
		r.to(first)
		l, to := open(t, r.Dial)
		r.to(nowhere)
		p.say("-ERR 'Stale Connection'\r\n")
		if err := next(t, to.disconnected, "the loss of the connection"); !errors.Is(err, nats.ErrStaleConnection) {
			t.Errorf("the reason is %v", err)
		}
		if url, where := l.URL(), l.Describe(); url != "" || where != "" {
			t.Errorf("the URL is %q, the description %q without a connection", url, where)
		}
		none(t, to.closed, "the end")
		if l.Abort(); l.Aborted() {
			t.Error("it says that it broke the connection that was lost before")
		}
		l.Close()
		next(t, to.closed, "the end")
		l.Close() // again
		synctest.Wait()
		none(t, to.closed, "another end")
		none(t, to.reconnected, "a connection")
	})
}

func TestOnReconnect(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	l, to := open(t, s.InProcessConn)
	var calls [3]atomic.Int64
	ran := make(chan struct{}, 100)
	l.OnReconnect(func() { calls[0].Add(1) })
	removeSecond := l.OnReconnect(func() { calls[1].Add(1) })
	var removeThird func()
	removeThird = l.OnReconnect(func() {
		calls[2].Add(1)
		removeThird() // from within
		l.OnReconnect(func() { ran <- struct{}{} })
	})
	expect := func(when string, want ...int64) {
		t.Helper()
		for i := range calls {
			if n := calls[i].Load(); n != want[i] {
				t.Errorf("%s: hook %d was called %d times, want %d", when, i, n, want[i])
			}
		}
	}
	expect("before", 0, 0, 0)
	reconnect(t, l, to) // now the third adds the last one
	reconnect(t, l, to)
	next(t, ran, "a hook that a hook added")
	eventually(t, func() bool { return calls[0].Load() == 2 && calls[1].Load() == 2 })
	expect("after two reconnects", 2, 2, 1)
	removeSecond()
	removeSecond() // again
	reconnect(t, l, to)
	next(t, ran, "a hook that a hook added")
	eventually(t, func() bool { return calls[0].Load() == 3 })
	expect("after it was removed", 3, 2, 1)
}

// eventually waits until cond holds, for what nothing announces.
func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	deadline := time.After(testTimeout)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not happen")
		}
	}
}

// TestHooksUnderLoad adds and removes hooks and watchers while the connection
// comes and goes.
func TestHooksUnderLoad(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	l, to := open(t, s.InProcessConn)
	var wg sync.WaitGroup
	var stopped atomic.Bool
	var calls atomic.Int64
	for i := range 4 {
		wg.Go(func() {
			for !stopped.Load() {
				remove := l.OnReconnect(func() { calls.Add(1) })
				sub, err := l.Conn().Subscribe(fmt.Sprintf("s.%d", i), func(*nats.Msg) {})
				if err != nil {
					t.Error(err)
					return
				}
				unwatch := l.Watch(sub, func(error) {})
				_ = l.Flush(t.Context(), testTimeout) // the connection may be lost just then
				unwatch()
				_ = sub.Unsubscribe()
				remove()
			}
		})
	}
	for range 20 {
		reconnect(t, l, to)
	}
	stopped.Store(true)
	wg.Wait()
	reconnect(t, l, to)
	before := calls.Load()
	reconnect(t, l, to)
	if after := calls.Load(); after != before {
		t.Errorf("hooks that were removed are called: %d, then %d", before, after)
	}
}

// overflow has more messages come to sub than it may hold.
func overflow(t *testing.T, l *link.Link, subject string) (sub *nats.Subscription, release func()) {
	t.Helper()
	gate := make(chan struct{})
	sub, err := l.Conn().Subscribe(subject, func(*nats.Msg) { <-gate })
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(1, -1); err != nil {
		t.Fatal(err)
	}
	return sub, sync.OnceFunc(func() { close(gate) })
}

// TestAsyncErrors looks at who is told of what goes wrong without a call that
// could return it: the watcher of the subscription, or else the owner.
func TestAsyncErrors(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Deny: []string{"secret.>"}},
			Publish:   &server.SubjectPermission{Deny: []string{"closed.>"}},
		}}}
	})
	l, to := open(t, s.InProcessConn, func(c *link.Config) { c.Access = []nats.Option{nats.UserInfo("u", "p")} })
	burst := func(subject string) {
		t.Helper()
		for range 10 {
			if err := l.Publish(&wire.Out{Subject: subject, Data: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Flush(t.Context(), testTimeout); err != nil {
			t.Fatal(err)
		}
	}
	watched, release := overflow(t, l, "watched")
	defer release()
	other, releaseOther := overflow(t, l, "other")
	defer releaseOther()
	errs := make(chan error, 100)
	l.Watch(watched, func(err error) { errs <- err })
	unwatch := l.Watch(other, func(err error) { errs <- err })
	unwatch()
	unwatch() // again

	burst("watched")
	if err := next(t, errs, "the watcher's error"); !errors.Is(err, nats.ErrSlowConsumer) {
		t.Errorf("the watcher got %v", err)
	}
	burst("other")
	if f := next(t, to.failed, "the owner's error"); f.subject != "other" || !errors.Is(f.err, nats.ErrSlowConsumer) {
		t.Errorf("the owner got %+v", f)
	}
	none(t, errs, "an error of another subscription")
	denied := func(what string) {
		t.Helper()
		if f := next(t, to.failed, what); !errors.Is(f.err, nats.ErrPermissionViolation) {
			t.Errorf("%s: the owner got %+v", what, f)
		}
	}
	if _, err := l.Conn().Subscribe("secret.x", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	denied("a subscription without permission")
	burst("closed.x")
	denied("a message without permission")
	none(t, errs, "an error of another subscription")
}

// What goes out arrives as it was, with and without header and reply.
func TestPublishAndRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		l, _ := open(t, s.InProcessConn)
		nc := s.Conn(t)
		got := make(chan *nats.Msg, 10)
		if _, err := nc.Subscribe("a", func(m *nats.Msg) {
			got <- m
			if m.Reply != "" && m.Reply != "r" {
				_ = m.Respond([]byte("yes"))
			}
		}); err != nil {
			t.Fatal(err)
		}
		flush(t, nc)
		header := wire.Header{"K": {"v", "w"}}
		for name, out := range map[string]wire.Out{
			"plain":                     {Subject: "a", Data: []byte("x")},
			"with a reply":              {Subject: "a", Reply: "r", Data: []byte("x")},
			"with a header":             {Subject: "a", Header: header, Data: []byte("x")},
			"with a header and a reply": {Subject: "a", Reply: "r", Header: header, Data: []byte("x")},
		} {
			if err := l.Publish(&out); err != nil {
				t.Fatal(err)
			}
			m := next(t, got, name)
			if string(m.Data) != "x" || m.Reply != out.Reply || fmt.Sprint(m.Header["K"]) != fmt.Sprint(out.Header["K"]) {
				t.Errorf("%s: got %+v", name, m)
			}
			out.Reply = ""
			reply, err := l.Request(t.Context(), &out)
			if err != nil || string(reply.Data) != "yes" {
				t.Errorf("%s: the reply is %v, %v", name, reply, err)
			}
			if m := next(t, got, name); fmt.Sprint(m.Header["K"]) != fmt.Sprint(out.Header["K"]) {
				t.Errorf("%s: the request is %+v", name, m)
			}
		}
		if _, err := l.Request(t.Context(), &wire.Out{Subject: "nobody"}); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("a request to nobody: %v", err)
		}
	})
}

// What a user reads of the server never shows how the bus identified itself.
func TestURLOfALink(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, testserver.WithPort, func(o *server.Options) { o.ServerName, o.Username, o.Password = "srv", "ann", "x@s3cret" })
	addr := s.NATS().Addr().String()
	l, _ := open(t, nil, func(c *link.Config) { c.URL = "nats://ann:x%40s3cret@" + addr })
	if got, want := l.URL(), "nats://"+addr; got != want {
		t.Errorf("the URL is %q, want %q", got, want)
	}
	if got, want := l.Describe(), fmt.Sprintf("nats://%s (srv)", addr); got != want {
		t.Errorf("the description is %q, want %q", got, want)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, func(o *server.Options) { o.ServerName = "srv" })
	var r route
	r.to(s.InProcessConn)
	l, to := open(t, r.Dial)
	if got, want := l.Describe(), "embedded (srv)"; got != want {
		t.Errorf("the description is %q, want %q", got, want)
	}
	r.to(nowhere)
	if err := l.Conn().ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	next(t, to.disconnected, "the loss of the connection")
	if got := l.Describe(); got != "" {
		t.Errorf("the description is %q without a connection", got)
	}
}

// subscribe subscribes with an ear for the server's refusal.
func subscribe(t *testing.T, l *link.Link, subject, group string) error {
	t.Helper()
	o := l.WatchSubscription(subject, group)
	defer o.End()
	sub, err := l.Conn().QueueSubscribe(subject, group, func(*nats.Msg) {})
	if err != nil {
		t.Error(err)
		return nil
	}
	if err := l.Flush(t.Context(), testTimeout); err != nil {
		t.Error(err)
	}
	if err = o.Refusal(); err != nil {
		_ = sub.Unsubscribe()
	}
	return err
}

// refused fails the test unless err says that the server refused subject.
func refused(t *testing.T, err error, subject string, why error) {
	t.Helper()
	r, ok := errors.AsType[*link.RefusedError](err)
	if !ok || r.Subject != subject || !errors.Is(err, why) || !strings.Contains(err.Error(), subject) {
		t.Errorf("the subscription to %q got %v, want a refusal: %v", subject, err, why)
	}
}

// denying lets nobody subscribe to "secret.>".
func denying(o *server.Options) {
	o.NoAuthUser = "u"
	o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
		Subscribe: &server.SubjectPermission{Deny: []string{"secret.>"}},
		Publish:   &server.SubjectPermission{Deny: []string{"closed.>"}},
	}}}
}

// Who subscribes hears of the refusal, and nobody else does.
func TestOpening(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, denying)
	for name, group := range map[string]string{"alone": "", "in a group": "g"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, to := open(t, s.InProcessConn)
			for i := range 3 {
				if err := subscribe(t, l, fmt.Sprint("open.", i), group); err != nil {
					t.Error(err)
				}
				subject := fmt.Sprint("secret.", i)
				refused(t, subscribe(t, l, subject, group), subject, nats.ErrPermissionViolation)
				refused(t, subscribe(t, l, subject, group), subject, nats.ErrPermissionViolation) // the same again
			}
			awaitCallbacks(t, l, to)
			none(t, to.failed, "an error of a subscription whose call returned it")
		})
	}
	t.Run("many at once", func(t *testing.T) {
		t.Parallel()
		l, to := open(t, s.InProcessConn)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				if i%2 == 0 {
					if err := subscribe(t, l, fmt.Sprint("open.", i), ""); err != nil {
						t.Error(err)
					}
					return
				}
				subject := fmt.Sprint("secret.", i)
				refused(t, subscribe(t, l, subject, ""), subject, nats.ErrPermissionViolation)
			})
		}
		wg.Wait()
		awaitCallbacks(t, l, to)
		none(t, to.failed, "an error of a subscription whose call returned it")
	})
	t.Run("an old refusal, and others' errors", func(t *testing.T) {
		t.Parallel()
		l, to := open(t, s.InProcessConn)
		if _, err := l.Conn().Subscribe("secret.old", func(*nats.Msg) {}); err != nil {
			t.Fatal(err)
		}
		if f := next(t, to.failed, "the refusal"); f.subject != "secret.old" || !errors.Is(f.err, nats.ErrPermissionViolation) {
			t.Errorf("the owner got %+v", f)
		}
		if err := subscribe(t, l, "open.a", ""); err != nil {
			t.Error(err)
		}
		if err := l.Publish(&wire.Out{Subject: "closed.x"}); err != nil {
			t.Fatal(err)
		}
		if err := subscribe(t, l, "open.b", ""); err != nil {
			t.Error(err)
		}
		if f := next(t, to.failed, "the refusal"); f.subject != "closed.x" || !strings.Contains(f.err.Error(), "closed.x") {
			t.Errorf("the owner got %+v", f)
		}
	})
}

// awaitCallbacks waits until what nats.go had to tell is told.
func awaitCallbacks(t *testing.T, l *link.Link, to *told) {
	t.Helper()
	reconnect(t, l, to)
}

// A server that takes no more subscriptions refuses each further one.
func TestOpeningBeyondTheLimit(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, func(o *server.Options) { o.MaxSubs = 3 })
	l, to := open(t, s.InProcessConn)
	for i := range 3 {
		if err := subscribe(t, l, fmt.Sprint("s.", i), ""); err != nil {
			t.Error(err)
		}
	}
	for i := range 3 {
		subject := fmt.Sprint("t.", i)
		refused(t, subscribe(t, l, subject, ""), subject, nats.ErrMaxSubscriptionsExceeded)
	}
	none(t, to.failed, "an error of a subscription whose call returned it")
}

// nats.go passes the server's words on late where its owner is slow to hear.
func TestOpeningWhileTheOwnerIsSlow(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, denying)
	gate, inside := make(chan struct{}), make(chan struct{}, 1)
	l, to := open(t, s.InProcessConn, func(c *link.Config) {
		tell := c.Failed
		c.Failed = func(subject string, err error) {
			inside <- struct{}{}
			<-gate
			tell(subject, err)
		}
	})
	if err := l.Publish(&wire.Out{Subject: "closed.x"}); err != nil {
		t.Fatal(err)
	}
	next(t, inside, "the owner")
	refused(t, subscribe(t, l, "secret.x", ""), "secret.x", nats.ErrPermissionViolation)
	if err := subscribe(t, l, "open.x", ""); err != nil {
		t.Error(err)
	}
	close(gate)
	next(t, to.failed, "the error of the message")
	awaitCallbacks(t, l, to)
	none(t, to.failed, "an error of a subscription whose call returned it")
}
