package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/health"
)

// slack keeps a crowded machine from making a bus slow where that is not what a
// test looks at.
func slack() bus.ConnectOption {
	return bus.WithHealthThresholds(health.Thresholds{SlowRTT: time.Hour})
}

func TestHealthy(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort(), slack())
	_, err := bus.Subscribe(b, "a", ignore[int])
	must(t, err)
	publishRange(t, b, "a", 0, 100)
	r := healthy(t, b)
	if !r.Embedded || r.RTT <= 0 || !strings.Contains(r.Server, " ("+b.Conn().ConnectedServerName()+")") {
		t.Errorf("embedded: %+v", r)
	}
	r = healthy(t, connectTo(t, b, slack()))
	if r.Embedded || r.RTT <= 0 || !strings.HasPrefix(r.Server, b.ClientURL()+" (") {
		t.Errorf("connected: %+v", r)
	}
}

func TestHealthOfSlowRoundTrips(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort(), bus.WithHealthThresholds(health.Thresholds{SlowRTT: time.Nanosecond}))
	r := b.Health(t.Context())
	unwell(t, r, health.Degraded, "connection", "round trip took", r.RTT.String(), "more than 1ns")
	if r.RTT <= 0 {
		t.Errorf("the round trip took %v", r.RTT)
	}
}

// waiting returns a bus in a bubble's report when n messages of 10 bytes wait
// for a handler that is stuck, and its report when that is released.
func waiting(t *testing.T, n int, limits bus.SubscribeOption, thresholds health.Thresholds) (stuck, released health.Report) {
	t.Helper()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		h, _, release := held[[]byte](1000)
		_, err := bus.Subscribe(b, "load.*", h, limits)
		must(t, err)
		for range n + 1 {
			must(t, bus.Publish(t.Context(), b, "load.x", make([]byte, 10)))
		}
		must(t, b.Flush(t.Context()))
		synctest.Wait()
		stuck = b.Health(t.Context())
		close(release)
		synctest.Wait()
		released = b.Health(t.Context())
	}, bus.WithHealthThresholds(thresholds))
	return stuck, released
}

// More of the pending limits in use than the threshold says is a warning that
// goes away with the messages.
func TestHealthOfPendingMessages(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		waiting    int
		limits     bus.SubscribeOption
		thresholds health.Thresholds
		want       []string // words of the reason; nil means healthy
	}{
		{"as many messages as allowed", 80, bus.PendingLimits(100, -1), health.Thresholds{}, nil},
		{"more messages", 81, bus.PendingLimits(100, -1), health.Thresholds{}, []string{"load.*", "(81)", "81 %"}},
		{"the bytes count too", 90, bus.PendingLimits(1000, 1000), health.Thresholds{}, []string{"load.*", "(90)"}},
		{"few bytes", 90, bus.PendingLimits(1000, 10000), health.Thresholds{}, nil},
		{"no limits", 200, bus.PendingLimits(-1, -1), health.Thresholds{}, nil},
		{"default limits", 200, bus.PendingLimits(512*1024, 64<<20), health.Thresholds{}, nil},
		{"a lower threshold", 11, bus.PendingLimits(100, -1), health.Thresholds{PendingRatio: 0.1}, []string{"11 %"}},
		{"a higher threshold", 95, bus.PendingLimits(100, -1), health.Thresholds{PendingRatio: 0.95}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			stuck, released := waiting(t, tc.waiting, tc.limits, tc.thresholds)
			if tc.want == nil {
				if stuck.Status != health.Healthy {
					t.Errorf("the report is %+v", stuck)
				}
			} else {
				unwell(t, stuck, health.Degraded, "subscription", tc.want...)
			}
			if released.Status != health.Healthy {
				t.Errorf("with nothing waiting the report is %+v", released)
			}
		})
	}
}

// takers are the ways in which handlers get messages: each has one that fails for
// odd numbers handle 0 to n-1, of which only odd of them are odd.
var takers = map[string]func(t *testing.T, b *bus.Bus, numbers []int){
	"subscription": func(t *testing.T, b *bus.Bus, numbers []int) {
		_, err := bus.Subscribe(b, "load.x", failOdd)
		must(t, err)
		must(t, bus.PublishBatch(t.Context(), b, "load.x", numbers))
	},
	"responder": func(t *testing.T, b *bus.Bus, numbers []int) {
		_, err := bus.Respond(b, "load.x", func(ctx context.Context, m *bus.Msg[int]) (int, error) { return 0, failOdd(ctx, m) })
		must(t, err)
		must(t, bus.PublishBatch(t.Context(), b, "load.x", numbers))
	},
	"consumer": func(t *testing.T, b *bus.Bus, numbers []int) {
		st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "LOAD", Subjects: []string{"load.x"}})
		must(t, err)
		for _, n := range numbers {
			must(t, second(bus.PublishTo(t.Context(), st, "load.x", n)))
		}
		_, err = bus.Consume(t.Context(), st, "d", "load.x", failOdd, bus.Retry(bus.RetryPolicy{MinBackoff: time.Hour, MaxBackoff: time.Hour}))
		must(t, err)
	},
}

func failOdd(_ context.Context, m *bus.Msg[int]) error {
	if m.Data%2 != 0 {
		return errors.New("odd")
	}
	return nil
}

// More failing handler calls than the threshold says are a warning, whoever
// calls the handler; of few calls nothing can be said.
func TestHealthOfFailingHandlers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name         string
		calls, fails int
		thresholds   health.Thresholds
		want         string // of the reason; empty means healthy
	}{
		{"few calls", 19, 19, health.Thresholds{}, ""},
		{"half of them", 20, 10, health.Thresholds{}, ""},
		{"more than half", 20, 11, health.Thresholds{}, "load.x: 11 of 20 handler calls failed"},
		{"a lower threshold", 100, 2, health.Thresholds{ErrorRatio: 0.01}, "load.x: 2 of 100 handler calls failed"},
		{"a higher threshold", 20, 20, health.Thresholds{ErrorRatio: 1}, ""},
	} {
		for kind, run := range takers {
			t.Run(kind+": "+tc.name, func(t *testing.T) {
				t.Parallel()
				bustest.Run(t, func(t *testing.T, b *bus.Bus) {
					numbers := make([]int, tc.calls)
					for i := range tc.fails {
						numbers[i] = 1
					}
					run(t, b, numbers)
					synctest.Wait()
					if tc.want == "" {
						healthy(t, b)
						return
					}
					part := "subscription"
					if kind == "consumer" {
						part = kind
					}
					unwell(t, b.Health(t.Context()), health.Degraded, part, tc.want)
				}, bus.WithHealthThresholds(tc.thresholds), bus.WithLogger(silent()))
			})
		}
	}
}

// A stuck asynchronous publisher is a warning; here the connection fails as well,
// and the worst problem counts.
func TestHealthOfTheAsyncBuffer(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		waiting int
		want    string // of the reason; empty means no problem of the publisher
	}{
		{"as full as allowed", 8, ""},
		{"fuller", 9, "the buffer of PublishAsync is 90 % full"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b, server := stalledBus(t, bus.AsyncBuffer{Size: 10, NoWait: true})
			for i := range tc.waiting {
				must(t, bus.PublishAsync(t.Context(), b, "a", i))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			r := b.Health(ctx)
			var found string
			for _, p := range r.Problems {
				if p.Part == "publisher" && p.Status == health.Degraded {
					found = p.Reason
				}
			}
			if found != tc.want || r.Status != health.Failed {
				t.Errorf("the report is %+v, want %q", r, tc.want)
			}
			server.answerPings()
			server.send("PONG\r\n") // the probe's, too
			eventually(t, "the publisher goes on", func() bool { return b.Health(t.Context()).Status == health.Healthy })
		})
	}
}

func TestHealthWithoutAServer(t *testing.T) {
	t.Parallel()
	t.Run("lost", func(t *testing.T) {
		t.Parallel()
		b := cutOff(t)
		r := b.Health(t.Context())
		unwell(t, r, health.Failed, "connection", "disconnected", "comes back")
		if r.RTT != 0 || r.Embedded {
			t.Errorf("the report is %+v", r)
		}
		if r.Server != "" {
			t.Errorf("it is connected to %q", r.Server)
		}
	})
	t.Run("mute", func(t *testing.T) {
		t.Parallel()
		server := newFakeServer(t)
		b, err := bus.Connect(t.Context(), server.url(), bus.WithLogger(silent()), bus.WithTimeout(50*time.Millisecond))
		must(t, err)
		t.Cleanup(func() { _ = b.Close() })
		began := time.Now()
		r := b.Health(t.Context()) // the bus's timeout bounds it
		unwell(t, r, health.Failed, "connection", "no round trip", "timeout")
		if took := time.Since(began); r.RTT != 0 || took < 50*time.Millisecond || took > patience {
			t.Errorf("the report is %+v after %v", r, took)
		}
		server.answerPings()
	})
	t.Run("closed for good", func(t *testing.T) {
		t.Parallel()
		b := ownBus(t)
		b.Conn().Close()
		r := b.Health(t.Context())
		unwell(t, r, health.Failed, "connection")
		if strings.Contains(r.Problems[0].Reason, "comes back") {
			t.Errorf("it does not: %q", r.Problems[0].Reason)
		}
	})
}

func TestHealthOfAClosedBus(t *testing.T) {
	t.Parallel()
	b := ownBus(t)
	must(t, b.Close())
	var none *bus.Bus
	for name, b := range map[string]*bus.Bus{"closed": b, "nil": none} {
		r := b.Health(t.Context())
		unwell(t, r, health.Failed, "connection", "closed")
		if r.Server != "" || r.RTT != 0 {
			t.Errorf("%s: the report is %+v", name, r)
		}
	}
}

// Who cancels a probe learns nothing about the server, so it is not called well.
func TestHealthWithACancelledContext(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		unwell(t, b.Health(ctx), health.Failed, "connection", "no round trip", "canceled")
	}
	healthy(t, b)
}

// What the server itself is not well of is a failure, as here data of an account
// that it does not know.
func TestHealthOfTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := bustest.New(t, bus.WithStoreDir(dir), slack(), bus.WithLogger(silent()))
	declare(t, b, bus.StreamConfig{Name: "WELL", Subjects: []string{"well"}})
	healthy(t, b)
	ghost := filepath.Join(dir, "data", "jetstream", "GHOST")
	must(t, os.Mkdir(ghost, 0o700))
	unwell(t, b.Health(t.Context()), health.Failed, "server", "GHOST", "could not be resolved")
	must(t, os.Remove(ghost))
	healthy(t, b)
}

func TestStatusText(t *testing.T) {
	t.Parallel()
	for status, want := range map[health.Status]string{health.Healthy: "healthy", health.Degraded: "degraded", health.Failed: "failed", 7: "Status(7)"} {
		text, err := status.MarshalText()
		if status.String() != want || string(text) != want || err != nil {
			t.Errorf("%d is %q and %q, %v; want %q", int(status), status, text, err, want)
		}
	}
	if health.Healthy >= health.Degraded || health.Degraded >= health.Failed {
		t.Error("the statuses are not in the order from best to worst")
	}
}

// A readiness probe serves the report as it is.
func TestReportAsJSON(t *testing.T) {
	t.Parallel()
	r := health.Report{Status: health.Failed, Problems: []health.Problem{{Status: health.Degraded, Part: "publisher", Reason: "full"}},
		Server: "nats://h:1 (s)", Embedded: true, RTT: time.Millisecond}
	got, err := json.Marshal(r)
	must(t, err)
	const want = `{"status":"failed","problems":[{"status":"degraded","part":"publisher","reason":"full"}],` +
		`"server":"nats://h:1 (s)","embedded":true,"rtt":1000000}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	b := bustest.New(t, slack())
	for _, want := range []string{`"status":"healthy"`, `"problems":[]`} {
		if got, err := json.Marshal(b.Health(t.Context())); err != nil || !strings.Contains(string(got), want) {
			t.Errorf("got %s, %v; want %s in it", got, err, want)
		}
	}
}

// A user who may not subscribe to his inbox gets no replies. Health says so, with the subject and
// what to do, before and after a request has failed, until a connection of his gets them.
func TestHealthWithoutReplies(t *testing.T) {
	t.Parallel()
	for name, asks := range map[string]bool{"before a request": false, "after a request": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var users permitting
			s := external(t, func(o *server.Options) { o.CustomClientAuthentication = &users })
			users.Store(&server.Permissions{Subscribe: &server.SubjectPermission{Allow: []string{"a", "_INBOX_shop.>"}}})
			connect := func(opts ...bus.ConnectOption) *bus.Bus {
				b, err := bus.Connect(t.Context(), s.ClientURL(), append(opts, bus.WithLogger(silent()), slack())...)
				must(t, err)
				t.Cleanup(func() { must(t, b.Close()) })
				return b
			}
			b := connect()
			if asks {
				asError[*bus.SubjectError](t, second(bus.Request[int](t.Context(), b, "a", 1)), "_INBOX.>")
			}
			for range 2 {
				unwell(t, b.Health(t.Context()), health.Degraded, "connection", `"_INBOX.>"`, "may not subscribe", "allow the user to subscribe to it", "WithInboxPrefix")
			}
			began := time.Now()
			err := second(bus.Request[int](t.Context(), b, "a", 1))
			asError[*bus.SubjectError](t, err, "_INBOX.>")
			if errors.Is(err, bus.ErrUnknownOutcome) || time.Since(began) > patience {
				t.Errorf("a request that was not sent: %v", err)
			}
			must(t, bus.Publish(t.Context(), b, "a", 1))
			must(t, second(bus.Subscribe(b, "a", ignore[int])))
			healthy(t, connect(bus.WithInboxPrefix("_INBOX_shop")))
			users.Store(nil)
			must(t, b.Conn().ForceReconnect())
			eventually(t, "Health to see that replies come", func() bool { return b.Health(t.Context()).Status == health.Healthy })
			users.Store(&server.Permissions{Subscribe: &server.SubjectPermission{Allow: []string{"a"}}})
			must(t, b.Conn().ForceReconnect())
			eventually(t, "Health to see that they do not any more", func() bool { return b.Health(t.Context()).Status == health.Degraded })
		})
	}
}

// A connection with as many subscriptions as it may have is not taken for one without replies.
func TestHealthWithFullSubscriptions(t *testing.T) {
	t.Parallel()
	s := external(t, func(o *server.Options) { o.MaxSubs = 1 })
	b, err := bus.Connect(t.Context(), s.ClientURL(), bus.WithLogger(silent()), slack())
	must(t, err)
	defer func() { must(t, b.Close()) }()
	must(t, second(bus.Subscribe(b, "a", ignore[int])))
	healthy(t, b)
	if err := bus.Publish(t.Context(), b, "a", 1); err != nil {
		t.Error(err)
	}
	healthy(t, b)
}
