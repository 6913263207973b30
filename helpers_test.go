package bus_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/testserver"
)

// external starts a server that is not the bus's own.
func external(t *testing.T, adjust func(*server.Options)) *server.Server {
	t.Helper()
	opts := []testserver.Option{testserver.WithPort, testserver.WithJetStream}
	if adjust != nil {
		opts = append(opts, adjust)
	}
	return testserver.New(t, opts...).NATS()
}

// line is one line of a log.
type line struct {
	name, level, message string
	fields               map[string]any
}

// logTo returns an option that logs from level on, and what it has logged.
func logTo(level hclog.Level) (bus.ConnectOption, func(t testing.TB) []line) {
	var out lockedBuffer
	logger := hclog.New(&hclog.LoggerOptions{Name: "app", Level: level, Output: &out, JSONFormat: true, DisableTime: true})
	return bus.WithLogger(logger), func(t testing.TB) []line {
		t.Helper()
		return readLog(t, out.String(), "@module", "@level", "@message")
	}
}

// said returns the lines of lines with this message.
func said(lines []line, message string) []line {
	return slices.DeleteFunc(slices.Clone(lines), func(l line) bool { return l.message != message })
}

// awaitEvent returns the next event of this kind.
func awaitEvent(t testing.TB, ch <-chan event.Event, kind event.Kind) event.Event {
	t.Helper()
	for {
		if e := receive(t, ch); e.Kind == kind {
			return e
		}
	}
}

var errNo = errors.New("no")

// deadline is a context for functions of nats.go that must have one.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stuck)
	t.Cleanup(cancel)
	return ctx
}

func withDeadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// pass lets virtual time go by and everything come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

type failing struct{}

func (failing) MarshalJSON() ([]byte, error) { return nil, errors.New("no way") }

// second is err, for calls whose other result is of no interest.
func second[T any](_ T, err error) error { return err }

// lockedBuffer is a buffer for a log.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// patience is how long a test waits for what should come at once.
const patience = 10 * time.Second

// receive returns the next value of ch.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("not reached")
	}
}

// nothing fails the test if a value waits in ch. The caller has made sure that
// one would be there by now.
func nothing[T any](t testing.TB, ch <-chan T) {
	t.Helper()
	select {
	case v := <-ch:
		t.Fatalf("came unexpectedly: %v", v)
	default:
	}
}

// eventually waits until cond holds, for conditions that nothing announces.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	within(t, patience, what, cond)
}

// within is eventually for what may take longer.
func within(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// must ends the test if err is not nil.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// asError returns the E in err's chain, whose text must contain each of parts.
func asError[E error](t testing.TB, err error, parts ...string) E {
	t.Helper()
	e, ok := errors.AsType[E](err)
	if !ok {
		t.Fatalf("got %T (%v), want a %T in its chain", err, err, e)
	}
	hasText(t, err, parts...)
	return e
}

// isError fails the test unless err matches target and contains each of parts.
func isError(t testing.TB, err, target error, parts ...string) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got %v, want %v", err, target)
	}
	hasText(t, err, parts...)
}

func hasText(t testing.TB, err error, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the text %q does not say %q", err, p)
		}
	}
}

// recordEvents returns an option and the events it collects.
func recordEvents() (bus.ConnectOption, <-chan event.Event) {
	ch := make(chan event.Event, 4096)
	return bus.WithEvents(func(e event.Event) { ch <- e }), ch
}

// nextEvent returns the next event, which must be of the given kind.
func nextEvent(t testing.TB, ch <-chan event.Event, kind event.Kind) event.Event {
	t.Helper()
	e := receive(t, ch)
	if e.Kind != kind {
		t.Fatalf("got the event %q (%v), want %q", e.Kind, e.Err, kind)
	}
	return e
}

// collect returns a handler that passes the payloads on, and where they go.
func collect[T any](size int) (bus.Handler[T], <-chan T) {
	ch := make(chan T, size)
	return func(_ context.Context, m *bus.Msg[T]) error {
		ch <- m.Data
		return nil
	}, ch
}

func silent() hclog.Logger { return hclog.NewNullLogger() }

// anyPort makes the server reachable for a second client.
func anyPort() bus.Option { return bus.WithListen("127.0.0.1:0") }

// ownBus is bustest.New for a test that closes the bus itself and looks at the
// errors of that.
func ownBus(t testing.TB, opts ...bus.Option) *bus.Bus {
	t.Helper()
	b, err := bus.New(append([]bus.Option{bus.WithLogger(silent()), bus.WithMaxMemory(16 << 20), bus.WithDrainTimeout(5 * time.Second)}, opts...)...)
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// connectTo returns a bus of its own connection to b's server.
func connectTo(t testing.TB, b *bus.Bus, opts ...bus.ConnectOption) *bus.Bus {
	t.Helper()
	opts = append([]bus.ConnectOption{bus.WithLogger(silent()), bus.WithDrainTimeout(5 * time.Second)}, opts...)
	c, err := bus.Connect(t.Context(), b.ClientURL(), opts...)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// rawClient returns a plain nats.go connection to b's server.
func rawClient(t testing.TB, b *bus.Bus) *nats.Conn {
	t.Helper()
	return dialRaw(t, b.ClientURL())
}

// dialRaw returns a plain nats.go connection. nats.go takes no URL for its default
// port, where the server of somebody else may answer.
func dialRaw(t testing.TB, url string) *nats.Conn {
	t.Helper()
	if url == "" {
		t.Fatal("the bus has no port; give it anyPort()")
	}
	nc, err := nats.Connect(url)
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// flushRaw waits until the server has all that nc sent.
func flushRaw(t testing.TB, nc *nats.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, nc.FlushWithContext(ctx))
}

type order struct {
	ID    string         `json:"id"`
	Total float64        `json:"total"`
	Tags  map[string]int `json:"tags,omitempty"`
}

func mustBeEmpty(t testing.TB, b *bus.Bus, name string) {
	t.Helper()
	if s := streamInfo(t, b, name).State; s.LastSeq != 0 {
		t.Errorf("%d messages were stored", s.LastSeq)
	}
}

// remote returns a bus that reaches the server of another one through a relay.
func remote(t *testing.T, opts ...bus.ConnectOption) (b, home *bus.Bus, r *relay, events <-chan event.Event) {
	t.Helper()
	home = bustest.New(t, anyPort())
	r = newRelay(t, home.ClientURL())
	record, events := recordEvents()
	b, err := bus.Connect(t.Context(), r.url(), append([]bus.ConnectOption{bus.WithLogger(silent()), bus.WithDrainTimeout(5 * time.Second), record}, opts...)...)
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b, home, r, events
}

// double answers with twice the number.
func double(_ context.Context, m *bus.Msg[int]) (int, error) { return 2 * m.Data, nil }

// openOn starts a bus on dir that the test closes.
func openOn(t testing.TB, dir string, opts ...bus.Option) *bus.Bus {
	t.Helper()
	return ownBus(t, append([]bus.Option{bus.WithStoreDir(dir)}, opts...)...)
}

// stuck is how long these tests wait for what takes milliseconds. It is more
// than the drain timeout of bustest, which therefore ends what hangs first, and
// then Close returns an error.
const stuck = 20 * time.Second

// quietBus starts a bus that writes no log; the caller closes it.
func quietBus(opts ...bus.Option) (*bus.Bus, error) {
	return bus.New(append([]bus.Option{bus.WithLogger(hclog.NewNullLogger()), bus.WithMaxMemory(16 << 20),
		bus.WithDrainTimeout(5 * time.Second)}, opts...)...)
}

// wait fails the test unless c is closed or gives something soon.
func wait[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(stuck):
		t.Fatalf("%s: still waiting after %v", what, stuck)
	}
	return v
}

// ignore is a handler that does nothing.
func ignore[T any](context.Context, *bus.Msg[T]) error { return nil }

// held returns a handler that tells of each call and then waits for release or
// the end of its context.
func held[T any](size int) (h bus.Handler[T], began <-chan T, release chan struct{}) {
	ch := make(chan T, size)
	release = make(chan struct{})
	return func(ctx context.Context, m *bus.Msg[T]) error {
		ch <- m.Data
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil
	}, ch, release
}

// publishRange publishes from, from+1, … below to, and waits until the server has
// passed them on.
func publishRange(t testing.TB, b *bus.Bus, s bus.Subject[int], from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		must(t, bus.Publish(t.Context(), b, s, i))
	}
	must(t, b.Flush(t.Context()))
}

// counted returns h, which counts in n how often it has returned.
func counted[T any](h bus.Handler[T], n *atomic.Int64) bus.Handler[T] {
	return func(ctx context.Context, m *bus.Msg[T]) error {
		defer n.Add(1)
		return h(ctx, m)
	}
}
