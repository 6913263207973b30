package bus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
)

// configured starts a server with the text of a configuration file.
func configured(t *testing.T, text string) *server.Server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "server.conf")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	read, err := server.ProcessConfigFile(file)
	must(t, err)
	return external(t, func(o *server.Options) {
		dir := o.StoreDir
		*o = *read
		o.Host, o.Port, o.NoSigs, o.NoLog, o.StoreDir = "127.0.0.1", server.RANDOM_PORT, true, true, dir
	})
}

// accountWith is a configuration whose clients use an account with limits.
func accountWith(limits string) string {
	return `jetstream {}
no_auth_user: u
accounts {
	A {
		` + limits + `
		users: [{user: u, password: p}]
	}
}
`
}

// A limit of a server or an account that a call meets is named by the error, with the call and
// with what to do.
func TestLimitsOfServersAreNamed(t *testing.T) {
	t.Parallel()
	type call = func(*testing.T, *bus.Bus) error
	plain := bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}}
	declare := func(c bus.StreamConfig) call {
		return func(t *testing.T, b *bus.Bus) error { return second(b.Stream(t.Context(), c)) }
	}
	// after calls fn with the stream that c describes.
	after := func(c bus.StreamConfig, fn func(*testing.T, *bus.Stream) error) call {
		return func(t *testing.T, b *bus.Bus) error {
			st, err := b.Stream(t.Context(), c)
			must(t, err)
			return fn(t, st)
		}
	}
	consume := func(durable string, opts ...bus.ConsumeOption) func(*testing.T, *bus.Stream) error {
		return func(t *testing.T, st *bus.Stream) error {
			return second(bus.Consume(t.Context(), st, durable, bus.Subject[int]("s."+durable), func(context.Context, *bus.Msg[int]) error { return nil }, opts...))
		}
	}
	twice := func(first, next func(*testing.T, *bus.Stream) error) func(*testing.T, *bus.Stream) error {
		return func(t *testing.T, st *bus.Stream) error {
			must(t, first(t, st))
			return next(t, st)
		}
	}
	publish := func(t *testing.T, st *bus.Stream) error { return second(bus.PublishTo(t.Context(), st, "s.a", 1)) }
	inFuture := func(t *testing.T, st *bus.Stream) error {
		f, err := bus.PublishToAsync(t.Context(), st, bus.Subject[int]("s.a"), 1)
		must(t, err)
		return second(f.Wait(t.Context()))
	}
	perSubject := plain
	perSubject.Raw = func(c *jetstream.StreamConfig) {
		c.MaxMsgsPerSubject, c.Discard, c.DiscardNewPerSubject = 1, jetstream.DiscardNew, true
	}
	window, large, memory := plain, plain, plain
	window.Duplicates, large.MaxBytes, memory.Storage = time.Minute, 2000, bus.MemoryStorage
	streams := "maximum number of streams reached; delete streams"
	held := []string{"limit of 10: the consumer asks for 1000; raise max_ack_pending", "ConsumerLimits.MaxAckPending"}
	fullSubject := []string{`stream "S": publish: maximum messages per subject exceeded`, "as many messages as the stream keeps of one subject", "raise MaxMsgsPerSubject", "Discard: DiscardOld, with AllowShrink"}
	for name, test := range map[string]struct {
		config string
		call   call
		texts  []string
	}{
		"streams of the account": {accountWith("jetstream: {max_streams: 1}"), func(t *testing.T, b *bus.Bus) error {
			must(t, declare(plain)(t, b))
			return declare(bus.StreamConfig{Name: "T", Subjects: []string{"t"}})(t, b)
		}, []string{`stream "T": create: `, streams}},
		"streams, Consume": {accountWith("jetstream: {max_streams: 1}"), after(plain, consume("d")),
			[]string{`stream "S": consume as d: create S-dead: `, streams, "two or three side streams"}},
		"streams, the second side stream": {accountWith("jetstream: {max_streams: 2}"), after(plain, consume("d")),
			[]string{`stream "S": consume as d: create S-retry: `, streams}},
		"streams, keys": {accountWith("jetstream: {max_streams: 3}"), after(plain, consume("d", bus.KeyBySubject())),
			[]string{`stream "S": consume as d: create S-keys: `, streams}},
		"consumers of the account": {accountWith("jetstream: {max_consumers: 1}"), after(plain, twice(consume("a"), consume("b"))),
			[]string{`stream "S": consume as b: `, "the account or the server allows no more", "DeleteConsumer", "Mux"}},
		"unacknowledged messages of the account": {accountWith("jetstream: {max_ack_pending: 10}"), after(plain, consume("d")),
			append([]string{`stream "S": consume as d: `}, held...)},
		"unacknowledged messages of the server": {"jetstream { limits { max_ack_pending: 10 } }", after(plain, consume("d", bus.KeyBySubject())),
			append([]string{`stream "S": consume as d: `}, held...)},
		"the window of duplicates": {"jetstream { limits { duplicate_window: 1s } }", declare(window),
			[]string{`stream "S": create: `, "server limit of 1s; lower StreamConfig.Duplicates", "duplicate_window"}},
		"no stream without a limit": {accountWith("jetstream: {max_bytes_required: true}"), declare(plain),
			[]string{`stream "S": create: `, "set StreamConfig.MaxBytes"}},
		"bytes of a stream": {accountWith("jetstream: {disk_max_stream_bytes: 1000}"), declare(large),
			[]string{`stream "S": create: `, "lower StreamConfig.MaxBytes"}},
		"no memory":                            {accountWith("jetstream: {max_mem: 0, max_file: 1G}"), declare(memory), []string{`stream "S": create: `, "limits of the account"}},
		"messages of a subject":                {"jetstream {}", after(perSubject, twice(publish, publish)), fullSubject},
		"messages of a subject, in background": {"jetstream {}", after(perSubject, twice(publish, inFuture)), fullSubject},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := bus.Connect(t.Context(), configured(t, test.config).ClientURL(), bus.WithLogger(silent()))
			must(t, err)
			t.Cleanup(func() { must(t, b.Close()) })
			asError[*bus.StreamError](t, test.call(t, b), test.texts...)
		})
	}
}

// A server with a smaller limit for payloads than ours is named by every call that sends.
func TestPayloadLimitOfAServer(t *testing.T) {
	t.Parallel()
	b, err := bus.Connect(t.Context(), configured(t, "max_payload: 20000\njetstream {}").ClientURL(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	must(t, err)
	const subject bus.Subject[[]byte] = "s.a"
	data := make([]byte, 20000)
	for call, err := range map[string]error{
		"Publish": bus.Publish(t.Context(), b, subject, data), "PublishTo": second(bus.PublishTo(t.Context(), st, subject, data)),
		"PublishToBatch": second(bus.PublishToBatch(t.Context(), st, bus.ItemOf(subject, data))),
		"PublishToAsync": second(bus.PublishToAsync(t.Context(), st, subject, data)),
		"Request":        second(bus.Request(t.Context(), b, bus.Endpoint[[]byte, int]("s.b"), data)),
	} {
		t.Run(call, func(t *testing.T) {
			asError[*bus.PayloadError](t, err, "20000 bytes, the limit is 11808", "reference", "max_payload")
		})
	}
}

// A server that has as many connections as it may have says so before it closes the new one.
func TestConnectionLimitOfAServer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		config, hint string
		want         error
	}{
		"of the server":  {"max_connections: 1", "raise max_connections", nats.ErrMaxConnectionsExceeded},
		"of the account": {accountWith("limits { max_conn: 1 }"), "raise the account's limit of connections", nats.ErrMaxAccountConnectionsExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := configured(t, test.config).ClientURL()
			b, err := bus.Connect(t.Context(), url, bus.WithLogger(silent()))
			must(t, err)
			t.Cleanup(func() { must(t, b.Close()) })
			for range 5 { // the reason and the end of the connection may arrive in any order
				_, err = bus.Connect(t.Context(), url, bus.WithLogger(silent()))
				if !errors.Is(err, test.want) {
					t.Errorf("got %v, want %v", err, test.want)
				}
				asError[*bus.ConnectError](t, err, url, "connections exceeded", "close connections that nobody needs", test.hint)
			}
		})
	}
}

// An account that has no streams without a limit gives the side streams that of their stream.
// They refuse what does not fit, and drop nothing.
func TestSideStreamsOfAnAccountWithLimits(t *testing.T) {
	t.Parallel()
	b, err := bus.Connect(t.Context(), configured(t, accountWith("jetstream: {max_bytes_required: true}")).ClientURL(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	const limit = 100_000
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}, MaxBytes: limit})
	must(t, err)
	const subject bus.Subject[int] = "s.a"
	c, err := bus.Consume(t.Context(), st, "d", subject, func(_ context.Context, m *bus.Msg[int]) error {
		if m.Attempt == 1 {
			return bus.RetryAfter(time.Millisecond, errors.New("once more"))
		}
		return bus.Permanent(fmt.Errorf("%d is wrong", m.Data))
	}, bus.KeyBySubject())
	must(t, err)
	must(t, second(bus.PublishTo(t.Context(), st, subject, 7)))
	eventually(t, "there is a dead letter", func() bool {
		n, err := st.DeadCount(t.Context(), bus.DeadFilter{})
		return err == nil && n == 1
	})
	for _, name := range []string{"S-dead", "S-retry", "S-keys"} {
		side, err := b.JetStream().Stream(t.Context(), name)
		must(t, err)
		if have := side.CachedInfo().Config; have.MaxBytes != limit || have.Discard != jetstream.DiscardNew {
			t.Errorf("%s: got %d bytes, %v", name, have.MaxBytes, have.Discard)
		}
	}
	must(t, c.Drain(t.Context()))
}
