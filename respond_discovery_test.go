package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// discover asks what services there are, and returns the answers of both buses.
func discover[T any](t *testing.T, nc *nats.Conn, subject string, want int) []T {
	t.Helper()
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	must(t, err)
	defer func() { must(t, sub.Unsubscribe()) }()
	must(t, nc.PublishRequest(subject, inbox, nil))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var answers []T
	for range want {
		m, err := sub.NextMsgWithContext(ctx)
		must(t, err)
		var v T
		must(t, json.Unmarshal(m.Data, &v))
		answers = append(answers, v)
	}
	must(t, nc.FlushWithContext(ctx))
	if n, _, err := sub.Pending(); n != 0 {
		t.Errorf("%s: %d more answers came than the %d expected (%v)", subject, n, want, err)
	}
	return answers
}

// The responders of a bus are one service of the NATS micro protocol.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort(), bus.WithName("shop"), bus.WithVersion("1.2.3"))
	nc := rawClient(t, b)
	began := time.Now()
	_, err := bus.Respond(b, "shop.*.get.>", double)
	must(t, err)
	failing, err := bus.Respond(b, "shop.fail", func(context.Context, *bus.Msg[int]) (int, error) {
		return 0, errors.New("boom")
	}, bus.Queue("others"))
	must(t, err)
	for i := range 5 {
		_, err := bus.Request[int](t.Context(), b, "shop.a.get.b.c", i)
		must(t, err)
	}
	for range 2 {
		_, err := bus.Request[int](t.Context(), b, "shop.fail", 1)
		asError[*bus.RemoteError](t, err)
	}

	ping := discover[micro.Ping](t, nc, "$SRV.PING", 1)[0]
	if ping.Name != "shop" || ping.Version != "1.2.3" || ping.ID == "" || ping.Type != micro.PingResponseType {
		t.Errorf("the ping is %+v", ping)
	}
	for _, subject := range []string{"$SRV.PING.shop", "$SRV.PING.shop." + ping.ID} {
		if again := discover[micro.Ping](t, nc, subject, 1)[0]; again.ID != ping.ID {
			t.Errorf("%s: the ping is %+v", subject, again)
		}
	}

	for _, subject := range []string{"$SRV.INFO", "$SRV.INFO.shop", "$SRV.INFO.shop." + ping.ID} {
		info := discover[micro.Info](t, nc, subject, 1)[0]
		if info.ID != ping.ID || info.Type != micro.InfoResponseType || len(info.Endpoints) != 2 {
			t.Fatalf("%s: the info is %+v", subject, info)
		}
		if e := info.Endpoints[0]; e.Subject != "shop.*.get.>" || e.Name != "shop_x_get_X" || e.QueueGroup != "shop" {
			t.Errorf("the endpoint is %+v", e)
		}
		if e := info.Endpoints[1]; e.Subject != "shop.fail" || e.Name != "shop_fail" || e.QueueGroup != "others" {
			t.Errorf("the endpoint is %+v", e)
		}
	}

	var stats micro.Stats
	eventually(t, "the last call is counted", func() bool {
		stats = discover[micro.Stats](t, nc, "$SRV.STATS.shop", 1)[0]
		return stats.Endpoints[1].LastError != "" && stats.Endpoints[1].NumErrors == 2 && b.Stats().InFlight == 0
	})
	if stats.Type != micro.StatsResponseType || stats.Started.Before(began.Add(-time.Minute)) || stats.Started.After(time.Now()) {
		t.Errorf("the statistics are %+v", stats)
	}
	if e := stats.Endpoints[0]; e.NumRequests != 5 || e.NumErrors != 0 || e.LastError != "" || e.ProcessingTime <= 0 || e.AverageProcessingTime != e.ProcessingTime/5 {
		t.Errorf("the endpoint's are %+v", e)
	}
	if e := stats.Endpoints[1]; e.NumRequests != 2 || e.NumErrors != 2 || e.LastError != "internal error (500)" {
		t.Errorf("the endpoint's are %+v", e)
	}

	must(t, failing.Drain(t.Context()))
	if info := discover[micro.Info](t, nc, "$SRV.INFO", 1)[0]; len(info.Endpoints) != 1 {
		t.Errorf("an ended responder is listed: %+v", info)
	}
	for _, subject := range []string{"$SRV.INFO.shopping", "$SRV.INFO.shop.x"} {
		if _, err := nc.RequestWithContext(t.Context(), subject, nil); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("%s: got %v, want %v", subject, err, nats.ErrNoResponders)
		}
	}
	// Discovery takes no reply from who wants none, and no harm from nonsense.
	must(t, nc.Publish("$SRV.STATS", []byte("nonsense")))
	flushRaw(t, nc)
	if s := b.Stats(); s.HandlerErrors != 2 || s.Events != 2 {
		t.Errorf("the statistics are %+v", s)
	}
}

// A service whose endpoints do not fit into one message answers with several. The one with
// the longest possible last error is alone in its part, and the error is left out.
func TestDiscoveryOfManyEndpoints(t *testing.T) {
	t.Parallel()
	const n = 100
	b := bustest.New(t, anyPort(), bus.WithMaxPayload(16<<10))
	nc := rawClient(t, b)
	_, err := bus.Respond(b, "factory.fail", func(context.Context, *bus.Msg[int]) (int, error) {
		return 0, bus.Public(strings.Repeat("\x01", 5000), strings.Repeat("\x02", 5000))
	})
	must(t, err)
	for i := range n - 1 {
		_, err := bus.Respond(b, bus.Endpoint[int, int](fmt.Sprintf("factory.line.device-%03d.command", i)), double)
		must(t, err)
	}
	info := discover[micro.Info](t, nc, "$SRV.INFO", 2)
	if a, b := info[0], info[1]; a.ID != b.ID || a.Metadata["endpoints"] != "1-50 of 100" || b.Metadata["endpoints"] != "51-100 of 100" {
		t.Errorf("the parts are %v and %v", a.ServiceIdentity, b.ServiceIdentity)
	}
	if ping := discover[micro.Ping](t, nc, "$SRV.PING", 1)[0]; len(ping.Metadata) != 0 {
		t.Errorf("the identity is %+v", ping)
	}
	seen := map[string]bool{}
	for _, e := range append(info[0].Endpoints, info[1].Endpoints...) {
		seen[e.Subject] = true
	}
	if len(seen) != n {
		t.Errorf("%d endpoints, want %d", len(seen), n)
	}

	_, err = bus.Request[int](t.Context(), b, "factory.fail", 1)
	asError[*bus.RemoteError](t, err)
	inbox, got := nc.NewInbox(), 0
	sub, err := nc.SubscribeSync(inbox)
	must(t, err)
	must(t, nc.PublishRequest("$SRV.STATS", inbox, nil))
	for got < n {
		m, err := sub.NextMsgWithContext(deadline(t))
		must(t, err)
		var stats micro.Stats
		must(t, json.Unmarshal(m.Data, &stats))
		got += len(stats.Endpoints)
		if e := stats.Endpoints[0]; e.Subject == "factory.fail" && !strings.Contains(e.LastError, "not shown") {
			t.Errorf("the last error has %d bytes", len(e.LastError))
		}
	}
}

// Without a responder a bus is no service.
func TestDiscoveryOfNothing(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort())
	_, err := bus.Subscribe(b, "a", ignore[int])
	must(t, err)
	nc := rawClient(t, b)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := nc.RequestWithContext(ctx, "$SRV.PING", nil); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("got %v, want %v", err, nats.ErrNoResponders)
	}
}

// A bus answers the clients of the micro library, and asks its services.
func TestMicroServices(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort(), bus.WithName("shop"))
	nc := rawClient(t, b)
	srv, err := micro.AddService(nc, micro.Config{Name: "foreign", Version: "0.0.1"})
	must(t, err)
	must(t, srv.AddEndpoint("echo", micro.HandlerFunc(func(r micro.Request) {
		if string(r.Data()) == "1" {
			_ = r.Error("418", "I am a teapot", []byte("details"))
			return
		}
		_ = r.Respond(r.Data())
	})))
	flushRaw(t, nc)
	if got, err := bus.Request[order](t.Context(), b, "echo", order{ID: "x"}); err != nil || got.ID != "x" {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = bus.Request[order](t.Context(), b, "echo", 1)
	if r := asError[*bus.RemoteError](t, err, "418", "teapot"); r.Code != "418" || r.Message != "I am a teapot" {
		t.Errorf("got %+v", r)
	}
	_, err = bus.Respond(b, "math", double)
	must(t, err)
	pings := discover[micro.Ping](t, nc, "$SRV.PING", 2)
	if names := pings[0].Name + " " + pings[1].Name; names != "shop foreign" && names != "foreign shop" {
		t.Errorf("the services are %s", names)
	}
	must(t, srv.Stop())
}
