package bus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// address is the host and port of a URL.
func address(t testing.TB, url string) string {
	t.Helper()
	addr, ok := strings.CutPrefix(url, "nats://")
	if !ok {
		t.Fatalf("the URL is %q", url)
	}
	return addr
}

// isFree reports whether nobody listens on addr.
func isFree(t testing.TB, addr string) bool {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err == nil {
		_ = l.Close()
	}
	return err == nil
}

// exchangeWith has a plain client at url and b send each other a message and a
// request, which both see as their own.
func exchangeWith(t *testing.T, url string, b *bus.Bus) {
	t.Helper()
	nc, err := nats.Connect(url)
	must(t, err)
	defer nc.Close()
	got := make(chan *nats.Msg, 1)
	must(t, second(nc.Subscribe("to.client", func(m *nats.Msg) { got <- m })))
	must(t, second(nc.Subscribe("ask.client", func(m *nats.Msg) { _ = m.Respond(append(m.Data, '0')) })))
	flushRaw(t, nc)
	h, arrived := collect[int](1)
	must(t, second(bus.Subscribe(b, "to.bus", h)))
	must(t, second(bus.Respond(b, "ask.bus", double)))

	must(t, nc.Publish("to.bus", []byte("4")))
	if v := receive(t, arrived); v != 4 {
		t.Errorf("the bus got %d, want 4", v)
	}
	must(t, bus.Publish(t.Context(), b, "to.client", 5))
	if m := receive(t, got); string(m.Data) != "5" || len(m.Header) != 0 {
		t.Errorf("the client got %q with %v", m.Data, m.Header)
	}
	if reply := rawRequest(t, nc, "ask.bus", "", "21"); string(reply.Data) != "42" {
		t.Errorf("the client's request was answered %q", reply.Data)
	}
	if v, err := bus.Request(t.Context(), b, bus.Endpoint[int, int]("ask.client"), 7); v != 70 || err != nil {
		t.Errorf("the bus's request was answered %d, %v", v, err)
	}
}

// hasIPv6 skips a test where the machine has no IPv6, loudly.
func hasIPv6(t *testing.T) {
	t.Helper()
	if !isFree(t, "[::1]:0") {
		t.Skip("SKIPPED: this machine has no IPv6")
	}
}

// Whatever address it listens on, ClientURL is what clients of this machine use,
// and who can come from other machines unasked is warned of.
func TestListen(t *testing.T) {
	t.Parallel()
	const warning = "the client port is open to other machines"
	for _, tc := range []struct {
		name   string
		listen string
		host   string // of the URL
		opts   []bus.Option
		ipv6   bool
		warns  bool
	}{
		{name: "any port", listen: "127.0.0.1:0", host: "127.0.0.1"},
		{name: "a name", listen: "localhost:0", host: "localhost"},
		{name: "every interface", listen: ":0", host: "127.0.0.1", warns: true},
		{name: "every interface of IPv4", listen: "0.0.0.0:0", host: "127.0.0.1", warns: true},
		{name: "IPv6", listen: "[::1]:0", host: "::1", ipv6: true},
		{name: "every interface of IPv6", listen: "[::]:0", host: "::1", ipv6: true, warns: true},
		{name: "every interface, guarded", listen: "0.0.0.0:0", host: "127.0.0.1", opts: []bus.Option{
			bus.WithServerOptions(func(o *server.Options) { o.Authorization = "s3cret" }),
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if tc.ipv6 {
				hasIPv6(t)
			}
			log, logged := logTo(hclog.Warn)
			opts := append([]bus.Option{log, bus.WithListen(tc.listen)}, tc.opts...)
			if tc.warns {
				asError[*bus.OptionError](t, second(bus.New(opts...)), "WithListen", "WithUnsafePorts", "127.0.0.1", "ask nobody")
				opts = append(opts, bus.WithUnsafePorts())
			}
			b := bustest.New(t, opts...)
			host, port, err := net.SplitHostPort(address(t, b.ClientURL()))
			must(t, err)
			if n, err := strconv.Atoi(port); host != tc.host || err != nil || n == 0 || n == 4222 {
				t.Errorf("the URL is %q, want the host %s and a port of its own", b.ClientURL(), tc.host)
			}
			warned := slices.ContainsFunc(logged(t), func(l line) bool { return strings.HasPrefix(l.message, warning) })
			if warned != tc.warns {
				t.Errorf("it warns of other machines: %t, want %t; the log is %+v", warned, tc.warns, logged(t))
			}
			if tc.opts == nil {
				exchangeWith(t, b.ClientURL(), b)
			}
		})
	}
}

// portOf starts a bus on a port of its own, which it names to run, and has run try
// again with another one where somebody else of this machine took it in between.
func portOf(t *testing.T, run func(b *bus.Bus, addr string) error) {
	t.Helper()
	var err error
	for range 3 {
		b := ownBus(t, anyPort())
		if err = run(b, address(t, b.ClientURL())); err == nil {
			return
		}
	}
	t.Error(err)
}

// A port that one names is the one that one gets, and it is free as soon as Close
// returns.
func TestListenOnAPort(t *testing.T) {
	t.Parallel()
	portOf(t, func(b *bus.Bus, addr string) error {
		for range 5 {
			must(t, b.Close())
			if !isFree(t, addr) {
				return fmt.Errorf("somebody listens on %s after the end", addr)
			}
			var err error
			if b, err = quietBus(bus.WithListen(addr)); err != nil {
				return err
			}
			if url := b.ClientURL(); url != "nats://"+addr {
				t.Errorf("it listens on %s, want %s", url, addr)
			}
		}
		return b.Close()
	})
}

// A start that fails when the port is open already gives it back.
func TestPortAfterAStartThatFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, ownBus(t, bus.WithStoreDir(dir)).Close())
	damaged := filepath.Join(dir, "data", "jetstream", "$G", "streams", "DAMAGED")
	must(t, os.MkdirAll(damaged, 0o700))
	must(t, os.WriteFile(filepath.Join(damaged, "meta.sum"), []byte("0123456789abcdef"), 0o600))
	portOf(t, func(b *bus.Bus, addr string) error {
		must(t, b.Close())
		_, err := quietBus(bus.WithListen(addr), bus.WithUnsafePorts(), bus.WithStoreDir(dir))
		if _, ok := errors.AsType[*bus.StoreError](err); !ok || !strings.Contains(err.Error(), "DAMAGED") {
			return fmt.Errorf("New returned %w", err)
		}
		if !isFree(t, addr) {
			return fmt.Errorf("somebody listens on %s", addr)
		}
		return nil
	})
}

// An empty address means no port, and the last option counts.
func TestNoPort(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bus.Option{
		"without the option": nil,
		"empty":              {bus.WithListen("")},
		"taken back":         {anyPort(), bus.WithListen("")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if url := bustest.New(t, opts...).ClientURL(); url != "" {
				t.Errorf("it listens on %s", url)
			}
		})
	}
}

// Addresses that are wrong, or another's, or nobody's, are typed errors that name
// the address, and leave nothing behind.
func TestListenErrors(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"4222", "127.0.0.1", "127.0.0.1:", "127.0.0.1:port", "127.0.0.1:-1", "127.0.0.1:65536", "::1:4222", "nats://127.0.0.1:4222"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			b, err := quietBus(bus.WithListen(addr))
			if err == nil {
				t.Fatal("New took it", b.ClientURL(), b.Close())
			}
			if o := asError[*bus.OptionError](t, err, addr); o.Option != "WithListen" || o.Reason == "" {
				t.Errorf("the error is %+v", o)
			}
		})
	}
	for name, addr := range map[string]string{"an address of another machine": "192.0.2.1:0", "a host that does not exist": "nowhere.invalid:0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			_, err := quietBus(bus.WithListen(addr), bus.WithUnsafePorts(), bus.WithStoreDir(dir))
			if l := asError[*bus.StartError](t, err, "cannot listen on", addr); l.Addr != addr {
				t.Errorf("the error is %+v", l)
			}
			mustWork(t, bus.WithStoreDir(dir)) // nothing holds it
		})
	}
}

// Of two buses on one port the second one fails and the first one does not notice.
func TestTwoBusesOnOnePort(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort())
	addr := address(t, b.ClientURL())
	for range 3 {
		_, err := quietBus(bus.WithListen(addr))
		mustBeTaken(t, err, addr)
	}
	exchangeWith(t, b.ClientURL(), b)
}

// When the bus closes, its clients lose their connection at once and the port is
// free; one that comes back finds the next bus there.
func TestCloseWithClients(t *testing.T) {
	t.Parallel()
	b := ownBus(t, anyPort())
	url := b.ClientURL()
	lost, back := make(chan error, 10), make(chan struct{}, 10)
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { lost <- err }),
		nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	must(t, err)
	t.Cleanup(nc.Close)
	got := make(chan *nats.Msg, 10)
	must(t, second(nc.Subscribe("to.client", func(m *nats.Msg) { got <- m })))
	flushRaw(t, nc)
	record, events := recordEvents()
	other := connectTo(t, b, record)
	stay := make(chan struct{})
	_, err = bus.Respond(b, "slow", func(ctx context.Context, m *bus.Msg[int]) (int, error) {
		close(stay)
		<-bus.Stopping(ctx)
		return m.Data, bus.Publish(ctx, b, "to.client", m.Data) // clients hear from handlers until the end
	})
	must(t, err)
	answer := make(chan error, 1)
	go func() { answer <- second(bus.Request(t.Context(), other, bus.Endpoint[int, int]("slow"), 1)) }()
	receive(t, stay)

	began := time.Now()
	must(t, b.Close())
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("closing took %v", took)
	}
	receive(t, lost)
	nextEvent(t, events, event.Disconnected)
	must(t, receive(t, answer))
	if m := receive(t, got); string(m.Data) != "1" {
		t.Errorf("the client got %q", m.Data)
	}
	addr := address(t, url)
	eventually(t, "the port is free", func() bool { return isFree(t, addr) }) // the clients try it all the time

	next, err := quietBus(bus.WithListen(addr))
	must(t, err)
	t.Cleanup(func() { must(t, next.Close()) })
	receive(t, back)
	nextEvent(t, events, event.Reconnected)
	flushRaw(t, nc)
	must(t, bus.Publish(t.Context(), next, "to.client", 2))
	if m := receive(t, got); string(m.Data) != "2" {
		t.Errorf("the client got %q from the next bus", m.Data)
	}
}

// Whatever opens a port: if other machines reach it, and it asks nobody who he is, it is
// refused.
func TestOpenPortsAreRefused(t *testing.T) {
	t.Parallel()
	anon := func(o *server.Options) {
		o.Users, o.NoAuthUser = []*server.User{{Username: "anon", Password: "x"}}, "anon"
	}
	guarded := func(o *server.Options) { o.Username, o.Password = "ann", "x" }
	for name, tc := range map[string]struct {
		set     func(*server.Options)
		refused string // the port; empty: none
	}{
		"clients":            {func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "0.0.0.0", -1 }, "client port"},
		"clients, no host":   {func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "", -1 }, "client port"},
		"clients, guarded":   {func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "0.0.0.0", -1; guarded(o) }, ""},
		"clients, anonymous": {func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "0.0.0.0", -1; anon(o) }, "client port"},
		"anonymous, here":    {func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "localhost", -1; anon(o) }, ""},
		"WebSocket":          {func(o *server.Options) { o.Websocket.Port, o.Websocket.NoTLS = -1, true }, "WebSocket port"},
		"WebSocket, guarded": {func(o *server.Options) { o.Websocket.Port, o.Websocket.NoTLS = -1, true; guarded(o) }, ""},
		"WebSocket, its own": {func(o *server.Options) { o.Websocket.Port, o.Websocket.NoTLS, o.Websocket.Username = -1, true, "ann" }, ""},
		"WebSocket, anonymous": {func(o *server.Options) {
			o.Websocket.Port, o.Websocket.NoTLS, o.Websocket.NoAuthUser = -1, true, "a"
			guarded(o)
		}, "WebSocket port"},
		"WebSocket, here":     {func(o *server.Options) { o.Websocket.Host, o.Websocket.Port, o.Websocket.NoTLS = "127.0.0.1", -1, true }, ""},
		"MQTT":                {func(o *server.Options) { o.MQTT.Port = -1 }, "MQTT port"},
		"leaf nodes":          {func(o *server.Options) { o.LeafNode.Port = -1 }, "leaf node port"},
		"leaf nodes, guarded": {func(o *server.Options) { o.LeafNode.Port = -1; guarded(o) }, ""},
		"cluster":             {func(o *server.Options) { o.Cluster.Name, o.Cluster.Port = "c", -1 }, "cluster port"},
		"gateway":             {func(o *server.Options) { o.Gateway.Name, o.Gateway.Port = "c", -1 }, "gateway port"},
		"monitoring":          {func(o *server.Options) { o.HTTPPort = -1; guarded(o) }, "monitoring port"},
		"monitoring, IPv6":    {func(o *server.Options) { o.HTTPHost, o.HTTPPort = "::", -1 }, "monitoring port"},
		"monitoring, here":    {func(o *server.Options) { o.HTTPHost, o.HTTPPort = "127.0.0.1", -1 }, ""},
		"profiling":           {func(o *server.Options) { o.ProfPort = -1 }, "profiling port"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := quietBus(bus.WithServerOptions(tc.set))
			if err == nil {
				must(t, b.Close())
			}
			if tc.refused == "" {
				must(t, err)
				return
			}
			asError[*bus.OptionError](t, err, "WithUnsafePorts", tc.refused)
		})
	}
}
