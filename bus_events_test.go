package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// readLog reads a log with a JSON object on each line.
func readLog(t testing.TB, log, name, level, message string) []line {
	t.Helper()
	var lines []line
	for text := range strings.Lines(log) {
		fields := map[string]any{}
		must(t, json.Unmarshal([]byte(text), &fields))
		l := line{fields: fields}
		for key, to := range map[string]*string{name: &l.name, level: &l.level, message: &l.message} {
			*to, _ = fields[key].(string)
			delete(fields, key)
		}
		lines = append(lines, l)
	}
	return lines
}

// occurrence is an event of one kind: how it comes about on a bus of this server,
// and what it tells.
type occurrence struct {
	cause func(t *testing.T, b *bus.Bus, s *server.Server)
	want  event.Event // without the time and the error
	check func(t *testing.T, err error)
}

func isNo(t *testing.T, err error) { isError(t, err, errNo) }

// takeClaim makes somebody else the owner of the durable d of S.
func takeClaim(t *testing.T, b *bus.Bus) {
	_, err := b.JetStream().Publish(context.Background(), "$OMNIBUS.keys.S.d.claim", []byte(`{"member":"somebody"}`))
	if err != nil {
		t.Error(err)
	}
}

func isSuperseded(t *testing.T, err error) {
	t.Helper()
	asError[*bus.StreamError](t, err)
	hasText(t, err, "another process")
}

// occurrences has one of each kind.
var occurrences = map[event.Kind]occurrence{
	event.HandlerFailed: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		must(t, second(bus.Subscribe(b, "a.*", refuse)))
		publishRange(t, b, "a.b", 0, 1)
	}, event.Event{Subject: "a.b"}, isNo},
	event.SubscriptionEnded: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		must(t, second(bus.Subscribe(b, "a.*", func(context.Context, *bus.Msg[int]) error {
			runtime.Goexit()
			return nil
		})))
		publishRange(t, b, "a.b", 0, 1)
	}, event.Event{Subject: "a.*"}, func(t *testing.T, err error) { isError(t, err, bus.ErrExited) }},
	event.Retry: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		consume(t, st, "d", "s.b", refuse, bus.Retry(bus.RetryPolicy{MinBackoff: time.Hour, MaxBackoff: time.Hour}))
		storeRange(t, st, "s.a", 0, 6)
		storeRange(t, st, "s.b", 0, 1)
	}, event.Event{Subject: "s.b", Stream: "S", Durable: "d", Sequence: 7, Attempt: 1}, isNo},
	event.DeadLetter: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		consume(t, st, "d", "s.b", giveUp)
		storeRange(t, st, "s.a", 0, 6)
		storeRange(t, st, "s.b", 0, 1)
	}, event.Event{Subject: "s.b", Stream: "S", Durable: "d", Sequence: 7, Attempt: 1}, isNo},
	event.DeadLetterFailed: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		consume(t, st, "d", "s.b", giveUp)
		refuseAll(t, b, "S-dead")
		storeRange(t, st, "s.b", 0, 1)
	}, event.Event{Subject: "s.b", Stream: "S", Durable: "d", Sequence: 1, Attempt: 1}, func(t *testing.T, err error) { hasText(t, err, "message size exceeds maximum") }},
	event.KeyStuck: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		consume(t, st, "d", "s.*", refuse, bus.KeyBySubject(), bus.Retry(bus.RetryPolicy{MinBackoff: time.Hour, MaxBackoff: time.Hour}))
		storeRange(t, st, "s.b", 0, 300)
	}, event.Event{Subject: "s.b", Stream: "S", Durable: "d", Sequence: 1}, isNo},
	event.OwnershipLost: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		consume(t, st, "d", "s.*", ignore[int], bus.KeyBySubject(), bus.AckWait(time.Second))
		eventually(t, "it is the owner", func() bool { return owns(b) })
		takeClaim(t, b)
	}, event.Event{Stream: "S", Durable: "d"}, isSuperseded},
	event.SettlementRefused: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		var once sync.Once
		consume(t, st, "d", "s.b", func(context.Context, *bus.Msg[int]) error {
			once.Do(func() { takeClaim(t, b) })
			return nil
		}, bus.KeyBySubject(), bus.AckWait(time.Second))
		storeRange(t, st, "s.a", 0, 6)
		storeRange(t, st, "s.b", 0, 1)
	}, event.Event{Subject: "s.b", Stream: "S", Durable: "d", Sequence: 7}, isSuperseded},
	event.Removed: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		consume(t, st, "d", "s.b", func(ctx context.Context, m *bus.Msg[int]) error {
			js, err := b.JetStream().Stream(ctx, "S")
			must(t, err)
			must(t, js.DeleteMsg(ctx, m.Sequence))
			return bus.RetryAfter(time.Millisecond, errNo)
		})
		storeRange(t, st, "s.a", 0, 6)
		storeRange(t, st, "s.b", 0, 1)
	}, event.Event{Subject: "s.b", Stream: "S", Durable: "d", Sequence: 7, Attempt: 1}, func(t *testing.T, err error) { must(t, err) }},
	event.OddRecord: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		consume(t, st, "d", "s.b", ignore[int])
		must(t, second(b.JetStream().Publish(t.Context(), "$OMNIBUS.retry.S.d.x.1", []byte("?"))))
	}, event.Event{Stream: "S", Durable: "d"}, func(t *testing.T, err error) { hasText(t, err, "not written by this library", "is removed") }},
	event.Unrouted: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		var m bus.Mux
		bus.Handle(&m, "a.b", ignore[int])
		must(t, second(b.Subscribe("a.>", &m)))
		publishRange(t, b, "a.c", 0, 1)
	}, event.Event{Subject: "a.c"}, func(t *testing.T, err error) { hasText(t, err, "no handler") }},
	event.SlowConsumer: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		h, _, release := held[int](100)
		t.Cleanup(func() { close(release) })
		must(t, second(bus.Subscribe(b, "a.*", h, bus.PendingLimits(2, -1))))
		publishRange(t, b, "a.b", 0, 20)
	}, event.Event{Subject: "a.*"}, func(t *testing.T, err error) { hasText(t, err, "too slow", "dropped so far") }},
	event.PublishFailed: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		b.Conn().Close()
		must(t, bus.PublishAsync(t.Context(), b, "a.b", 1))
	}, event.Event{Subject: "a.b"}, func(t *testing.T, err error) { isError(t, err, bus.ErrClosed) }},
	event.Captured: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		publishRange(t, b, "s.b", 0, 3)
	}, event.Event{Subject: "s.b", Stream: "S"}, func(t *testing.T, err error) { asError[*bus.CapturedError](t, err) }},
	event.Disconnected: {func(_ *testing.T, _ *bus.Bus, s *server.Server) { s.Shutdown() }, event.Event{}, func(t *testing.T, err error) {
		if err == nil {
			t.Error("it does not say why")
		}
	}},
	event.Reconnected: {func(t *testing.T, b *bus.Bus, _ *server.Server) { must(t, b.Conn().ForceReconnect()) },
		event.Event{}, func(t *testing.T, err error) { must(t, err) }},
	event.ConnectionClosed: {func(_ *testing.T, b *bus.Bus, _ *server.Server) { b.Conn().Close() }, event.Event{},
		func(t *testing.T, err error) { isError(t, err, bus.ErrClosed) }},
	event.ServerError: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		must(t, second(b.Conn().Subscribe("forbidden.>", func(*nats.Msg) {}))) // Subscribe of the bus would return it
	}, event.Event{Subject: "forbidden.>"}, func(t *testing.T, err error) { hasText(t, err, "permissions violation", "forbidden.>") }},
	event.StoreFull: {func(t *testing.T, b *bus.Bus, s *server.Server) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		must(t, s.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {
			MaxMemory: 100, MaxStore: 100, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1}}))
		for range 3 {
			_, _ = bus.PublishTo(t.Context(), st, "s.a", "a message that takes some room")
		}
	}, event.Event{}, func(t *testing.T, err error) { hasText(t, err, "no room", "limits exceeded", "raise the limit") }},
	event.LinkDown: {}, event.LinkUp: {}, event.DomainTaken: {},
	event.ConsumerStalled: {func(t *testing.T, b *bus.Bus, _ *server.Server) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		consume(t, st, "d", "s.b", ignore[int])
		eventually(t, "it asks for messages", func() bool { return consumerInfo(t, b, "S", "d").NumWaiting > 0 })
		must(t, b.JetStream().DeleteStream(t.Context(), "S"))
	}, event.Event{Stream: "S", Durable: "d"}, func(t *testing.T, err error) { hasText(t, err, "deleted") }},
}

// limited starts a server whose clients may not subscribe to everything.
func limited(t *testing.T) *server.Server {
	t.Helper()
	return external(t, func(o *server.Options) {
		o.NoAuthUser = "anybody"
		o.Users = []*server.User{{Username: "anybody", Password: "x", Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Deny: []string{"forbidden.>"}}}}}
	})
}

// quickOccurrences has those that need no half a minute. TestAStuckKeyStopsNoOther tries the
// other one in virtual time, and TestLeafLink those of an edge.
func quickOccurrences() map[event.Kind]occurrence {
	quick := maps.Clone(occurrences)
	for _, kind := range []event.Kind{event.KeyStuck, event.LinkDown, event.LinkUp, event.DomainTaken} {
		delete(quick, kind)
	}
	return quick
}

// Each kind of event says what it is about, once to the program and once, in one
// line with the same content, to the log.
func TestEvents(t *testing.T) {
	t.Parallel()
	for kind, o := range quickOccurrences() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := limited(t)
			record, events := recordEvents()
			log, logged := logTo(hclog.Trace)
			b, err := bus.Connect(t.Context(), s.ClientURL(), record, log, bus.WithDrainTimeout(time.Second))
			must(t, err)
			t.Cleanup(func() { _ = b.Close() })
			began := time.Now()
			o.cause(t, b, s)
			e := awaitEvent(t, events, kind)
			o.check(t, e.Err)
			if e.Time.Before(began) || e.Time.After(time.Now()) {
				t.Errorf("it happened at %v", e.Time)
			}
			got := e
			got.Time, got.Err, got.Kind = time.Time{}, nil, ""
			if (kind == event.SlowConsumer) != (got.Dropped > 0) {
				t.Errorf("it counts %d dropped messages", got.Dropped)
			}
			got.Dropped = 0
			if got != o.want {
				t.Errorf("the event is %+v, want %+v", got, o.want)
			}
			sameLine(t, said(logged(t), string(kind)), e)
		})
	}
}

// sameLine fails the test unless there is one line, and it says what e does.
func sameLine(t *testing.T, lines []line, e event.Event) {
	t.Helper()
	if len(lines) != 1 {
		t.Fatalf("the log has %d lines: %+v", len(lines), lines)
	}
	level := "warn"
	if e.Kind == event.Reconnected {
		level = "info"
	}
	if l := lines[0]; l.level != level || l.name != "app" {
		t.Errorf("the line is %+v, want level %s", l, level)
	}
	want := map[string]any{}
	for key, value := range map[string]string{"subject": e.Subject, "stream": e.Stream, "durable": e.Durable} {
		if value != "" {
			want[key] = value
		}
	}
	if e.Sequence != 0 {
		want["sequence"] = float64(e.Sequence) // as JSON has it
	}
	if e.Attempt != 0 {
		want["attempt"] = float64(e.Attempt)
	}
	if e.Err != nil {
		want["error"] = e.Err.Error()
	}
	if !maps.Equal(lines[0].fields, want) {
		t.Errorf("the line has the fields %v, want %v", lines[0].fields, want)
	}
}

// A panic's line has its stack, which nobody could print otherwise.
func TestPanicIsLoggedWithItsStack(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	log, logged := logTo(hclog.Warn)
	b := bustest.New(t, record, log)
	must(t, second(bus.Subscribe(b, "a", func(context.Context, *bus.Msg[int]) error { panic("oh") })))
	publishRange(t, b, "a", 0, 1)
	nextEvent(t, events, event.HandlerFailed)
	lines := logged(t)
	if len(lines) != 1 {
		t.Fatalf("the log is %+v", lines)
	}
	if stack, _ := lines[0].fields["stack"].(string); !strings.Contains(stack, t.Name()) || !strings.Contains(stack, "events_test.go") {
		t.Errorf("the line is %+v", lines[0])
	}
}

// All kinds are tried here, and documented.
func TestEventKindsAreComplete(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "event/event.go", nil, 0)
	must(t, err)
	kinds := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && fmt.Sprint(v.Type) == "Kind" {
			kind, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			must(t, err)
			kinds[kind] = true
		}
		return true
	})
	doc, err := os.ReadFile("docs/observability.md")
	must(t, err)
	_, table, _ := strings.Cut(string(doc), "## Events")
	table, _, _ = strings.Cut(table, "\n## ")
	documented := map[string]bool{}
	for row := range strings.Lines(table) {
		if cell, ok := strings.CutPrefix(row, "| `"); ok {
			cell, _, _ = strings.Cut(cell, " |")
			for kind := range strings.SplitSeq(cell, ", ") {
				documented[strings.Trim(kind, "`")] = true
			}
		}
	}
	if len(kinds) == 0 || !maps.Equal(kinds, documented) {
		t.Errorf("the kinds are %v, documented are %v", kinds, documented)
	}
	tried := map[string]bool{}
	for kind := range occurrences {
		tried[string(kind)] = true
	}
	if !maps.Equal(kinds, tried) {
		t.Errorf("the kinds are %v, tried are %v", kinds, tried)
	}
}

// A panic in the program's function is logged. It ends neither what the event is
// about nor the goroutine where it happened.
func TestEventFunctionThatPanics(t *testing.T) {
	t.Parallel()
	for kind, o := range quickOccurrences() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := limited(t)
			panicked := make(chan struct{}, 1000)
			log, logged := logTo(hclog.Trace)
			b, err := bus.Connect(t.Context(), s.ClientURL(), log, bus.WithDrainTimeout(time.Second), bus.WithEvents(func(e event.Event) {
				if e.Kind == kind {
					defer func() { panicked <- struct{}{} }()
				}
				panic(fmt.Errorf("oh, %s", e.Kind))
			}))
			must(t, err)
			t.Cleanup(func() { _ = b.Close() })
			o.cause(t, b, s)
			receive(t, panicked)
			const message = "the function of WithEvents panicked"
			mine := func() []line {
				return slices.DeleteFunc(said(logged(t), message), func(l line) bool { return l.fields["event"] != string(kind) })
			}
			eventually(t, "the panic is logged", func() bool { return len(mine()) == 1 })
			l := mine()[0]
			if l.level != "error" || l.fields["panic"] != "oh, "+string(kind) || len(l.fields) != 2 {
				t.Errorf("the line is %+v", l)
			}
			if n := len(said(logged(t), string(kind))); n != 1 {
				t.Errorf("the event itself has %d lines", n)
			}
			if !b.Conn().IsConnected() {
				return
			}
			h, got := collect[int](1)
			must(t, second(bus.Subscribe(b, "works", h)))
			publishRange(t, b, "works", 7, 8)
			receive(t, got)
		})
	}
}

// The program's function may use the bus: no lock is held while it runs.
func TestEventFunctionThatUsesTheBus(t *testing.T) {
	t.Parallel()
	for kind, o := range quickOccurrences() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := limited(t)
			done := make(chan string, 1000)
			var b *bus.Bus
			ready := make(chan struct{})
			b, err := bus.Connect(t.Context(), s.ClientURL(), bus.WithLogger(silent()), bus.WithDrainTimeout(time.Second), bus.WithEvents(func(e event.Event) {
				<-ready
				if e.Kind == kind {
					_ = bus.Publish(context.Background(), b, "told", string(e.Kind)) // the connection may be closed
					done <- nonzero(b.Stats())
				}
			}))
			must(t, err)
			close(ready)
			t.Cleanup(func() { _ = b.Close() })
			o.cause(t, b, s)
			hasText(t, errors.New(receive(t, done)), "events ")
		})
	}
}

// What a bus says of its start, and at which level.
func TestStartIsLogged(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	other := bustest.New(t, anyPort())
	for _, tc := range []struct {
		name    string
		start   func(log bus.ConnectOption) (*bus.Bus, error)
		message string
		fields  func(*bus.Bus) map[string]any
	}{
		{"in memory", func(log bus.ConnectOption) (*bus.Bus, error) {
			b, err := bus.New(log)
			for range 2 { // it is said when it matters, and once
				declare(t, b, bus.StreamConfig{Name: "S"})
			}
			return b, err
		}, "streams are kept in memory and end with the process; WithStoreDir keeps them on disk",
			func(*bus.Bus) map[string]any { return map[string]any{} }},
		{"on disk", func(log bus.ConnectOption) (*bus.Bus, error) { return bus.New(log, bus.WithStoreDir(dir)) },
			"streams are kept on disk",
			func(*bus.Bus) map[string]any {
				return map[string]any{"dir": dir, "sync": "always", "durability": "survives kill -9 and power cuts"}
			}},
		{"on disk, less safe", func(log bus.ConnectOption) (*bus.Bus, error) {
			return bus.New(log, bus.WithStoreDir(dir+"2"), bus.WithSync(bus.SyncEvery(time.Second)))
		}, "streams are kept on disk", func(*bus.Bus) map[string]any {
			return map[string]any{"dir": dir + "2", "sync": "1s", "durability": "survives kill -9; a power cut can lose the last 1s"}
		}},
		{"with a port", func(log bus.ConnectOption) (*bus.Bus, error) { return bus.New(log, anyPort()) },
			"listening for NATS clients",
			func(b *bus.Bus) map[string]any { return map[string]any{"url": b.ClientURL()} }},
		{"connected", func(log bus.ConnectOption) (*bus.Bus, error) {
			return bus.Connect(t.Context(), other.ClientURL(), log)
		}, "connected", func(b *bus.Bus) map[string]any {
			return map[string]any{"server": fmt.Sprintf("%s (%s)", other.ClientURL(), b.Conn().ConnectedServerName()), "version": b.Conn().ConnectedServerVersion()}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			log, logged := logTo(hclog.Info)
			b, err := tc.start(log)
			must(t, err)
			t.Cleanup(func() { _ = b.Close() })
			lines := logged(t)
			found := said(lines, tc.message)
			if len(found) != 1 || found[0].level != "info" || found[0].name != "app" || !maps.Equal(found[0].fields, tc.fields(b)) {
				t.Errorf("the log is %+v, want %q with %v", lines, tc.message, tc.fields(b))
			}
			for _, l := range lines {
				if l.level != "info" || l.name != "app" {
					t.Errorf("an uneventful start says %+v", l)
				}
			}
		})
	}
}

// The server's lines come from the sub-logger "nats": its notices as Debug, its
// warnings and errors as such, and what it says for its own developers as Trace.
func TestServerLog(t *testing.T) {
	t.Parallel()
	log, logged := logTo(hclog.Trace)
	b := bustest.New(t, log, anyPort(), bus.WithServerOptions(func(o *server.Options) { o.MaxPayload = 9 << 20 }))
	talkNonsense(t, b)
	has := func(level, part string) func() bool {
		return func() bool {
			return slices.ContainsFunc(logged(t), func(l line) bool {
				return l.name == "app.nats" && l.level == level && strings.Contains(l.message, part)
			})
		}
	}
	eventually(t, "a notice", has("debug", "Server is ready"))
	eventually(t, "a warning", has("warn", "Maximum payloads over"))
	eventually(t, "an error", has("error", "parser ERROR"))
	eventually(t, "a detail", has("trace", "Client connection created"))
	must(t, b.Close())
	eventually(t, "the end", has("debug", "Server Exiting"))
}

// talkNonsense connects to b's port and says what no NATS client says.
func talkNonsense(t *testing.T, b *bus.Bus) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(b.ClientURL(), "nats://"))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, second(conn.Write([]byte("nonsense\r\n"))))
}

// A level that nobody reads is not written.
func TestLogLevel(t *testing.T) {
	t.Parallel()
	levels := []string{"trace", "debug", "info", "warn", "error"}
	for i, level := range levels {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			log, logged := logTo(hclog.LevelFromString(level))
			b := bustest.New(t, log, anyPort(), bus.WithServerOptions(func(o *server.Options) { o.MaxPayload = 9 << 20 }))
			talkNonsense(t, b)
			eventually(t, "an error", func() bool {
				return slices.ContainsFunc(logged(t), func(l line) bool { return l.level == "error" })
			})
			seen := map[string]bool{}
			for _, l := range logged(t) {
				seen[l.level] = true
			}
			for j, other := range levels {
				if seen[other] != (j >= i) {
					t.Errorf("lines of the level %s: %t", other, seen[other])
				}
			}
		})
	}
}

// WithSlog passes on the same lines, with the logger's name as a field. Trace is
// four below Debug.
func TestWithSlog(t *testing.T) {
	t.Parallel()
	for name, least := range map[string]slog.Level{"DEBUG-4": slog.LevelDebug - 4, "DEBUG": slog.LevelDebug, "INFO": slog.LevelInfo,
		"WARN": slog.LevelWarn, "ERROR": slog.LevelError} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out lockedBuffer
			handler := slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: least})
			record, events := recordEvents()
			b := bustest.New(t, bus.WithSlog(slog.New(handler).With("program", "test")), record, anyPort(),
				bus.WithServerOptions(func(o *server.Options) { o.MaxPayload = 9 << 20 }))
			logged := func() []line { return readLog(t, out.String(), "logger", slog.LevelKey, slog.MessageKey) }
			must(t, second(bus.Subscribe(b, "a", refuse)))
			publishRange(t, b, "a", 0, 1)
			e := awaitEvent(t, events, event.HandlerFailed)
			talkNonsense(t, b)
			want := []line{ // one for each level
				{"bus.nats", "DEBUG-4", "Client connection created", nil},
				{"bus.nats", "DEBUG", "Server is ready", nil},
				{"bus", "INFO", "listening for NATS clients", map[string]any{"url": b.ClientURL()}},
				{"bus", "WARN", string(e.Kind), map[string]any{"subject": "a", "error": e.Err.Error()}},
				{"bus.nats", "ERROR", "parser ERROR", nil},
			}
			eventually(t, "the error is logged", func() bool { return find(logged(), want[4]) })
			above := false
			for _, w := range want {
				above = above || w.level == name
				if found := find(logged(), w); found != above {
					t.Errorf("there is a line like %+v: %t, want %t", w, found, above)
				}
			}
		})
	}
}

// find reports whether lines has one that begins or contains what w says and has
// its fields.
func find(lines []line, w line) bool {
	return slices.ContainsFunc(lines, func(l line) bool {
		if l.name != w.name || l.level != w.level || !strings.Contains(l.message, w.message) || l.fields["program"] != "test" {
			return false
		}
		for key, value := range w.fields {
			if l.fields[key] != value {
				return false
			}
		}
		return true
	})
}

// OMNIBUS_LOG_LEVEL sets the level of whatever logger there is.
func TestLogLevelFromEnv(t *testing.T) {
	environment(t, map[string]string{"LOG_LEVEL": "error"})
	start := func(t *testing.T, log bus.ConnectOption) {
		t.Helper()
		b, err := bus.New(log, bus.FromEnv(), anyPort(), bus.WithServerOptions(func(o *server.Options) { o.MaxPayload = 9 << 20 }))
		must(t, err)
		must(t, b.Close())
	}
	t.Run("WithLogger", func(t *testing.T) {
		log, logged := logTo(hclog.Debug)
		start(t, log)
		if lines := logged(t); len(lines) != 0 {
			t.Errorf("the log is %+v", lines)
		}
	})
	t.Run("WithSlog", func(t *testing.T) {
		var out lockedBuffer
		start(t, bus.WithSlog(slog.New(slog.NewTextHandler(&out, nil))))
		if text := out.String(); text != "" {
			t.Errorf("the log is\n%s", text)
		}
	})
}

// Without an option the log goes to standard error, from Info on. This runs in a
// process of its own, because the default is one for the whole process.
func TestDefaultLog(t *testing.T) {
	t.Parallel()
	if runAsChild(t) {
		return
	}
	if hclog.DefaultOutput != os.Stderr {
		t.Errorf("the default output is %v", hclog.DefaultOutput)
	}
	var out lockedBuffer
	hclog.DefaultOutput = &out
	b, err := bus.New()
	must(t, err)
	declare(t, b, bus.StreamConfig{Name: "S"})
	must(t, second(bus.Subscribe(b, "a", refuse)))
	publishRange(t, b, "a", 0, 1)
	must(t, b.Close())
	text := out.String()
	for _, want := range []string{"[INFO]  bus: streams are kept in memory", `[WARN]  bus: handler failed: subject=a error=no`} {
		if !strings.Contains(text, want) {
			t.Errorf("the log has no %q:\n%s", want, text)
		}
	}
	if n := strings.Count(text, "\n"); n != 2 {
		t.Errorf("the log has %d lines:\n%s", n, text)
	}
}
