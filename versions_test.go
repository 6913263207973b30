package bus_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/serverversion"
	"github.com/omnibus-go/bus/switchover"
)

// serversVariable names the environment variable with a directory of servers:
// DIR/v2.10.29/nats-server and so on. .ci/run sets it.
const serversVariable = "OMNIBUS_TEST_SERVERS"

// versionTable returns the table in docs/modes.md: what each call needs.
func versionTable(t *testing.T) map[string]serverversion.Version {
	t.Helper()
	text, err := os.ReadFile("docs/modes.md")
	must(t, err)
	_, after, found := strings.Cut(string(text), "\n| call | needs nats-server |\n|---|---|\n")
	if !found {
		t.Fatal("docs/modes.md has no table of versions")
	}
	table, _, _ := strings.Cut(after, "\n\n")
	needs := make(map[string]serverversion.Version)
	for row := range strings.Lines(table + "\n") {
		cells := strings.Split(strings.Trim(row, "| \n"), " | ")
		v, ok := serverversion.Parse(cells[len(cells)-1])
		if len(cells) != 2 || !ok {
			t.Fatalf("docs/modes.md: this row cannot be read: %s", row)
		}
		needs[cells[0]] = v
	}
	return needs
}

// versionCalls are the calls of the table. Each is made on a stream of its own, whose
// configuration has nothing that an older server lacks.
var versionCalls = map[string]func(context.Context, *bus.Bus, *bus.Stream) error{
	"`Connect`": func(context.Context, *bus.Bus, *bus.Stream) error { return nil },
	"`ExpectLastSequenceOf`": func(ctx context.Context, _ *bus.Bus, st *bus.Stream) error {
		_, err := bus.PublishTo(ctx, st, "v.expected", 1, bus.ExpectLastSequenceOf("v.expected", 0))
		return err
	},
	"`TTL`": func(ctx context.Context, b *bus.Bus, st *bus.Stream) error {
		_ = declareWith(ctx, b, st, func(c *bus.StreamConfig) { c.MessageTTL = true })
		_, err := bus.PublishTo(ctx, st, "v.ttl", 1, bus.TTL(time.Hour))
		return err
	},
	"`StreamConfig.MessageTTL`": func(ctx context.Context, b *bus.Bus, st *bus.Stream) error {
		return declareWith(ctx, b, st, func(c *bus.StreamConfig) { c.MessageTTL = true })
	},
	"`Consume` with a key": func(ctx context.Context, _ *bus.Bus, st *bus.Stream) error {
		c, err := bus.Consume(ctx, st, "keyed", "v.keyed", ignore[int], bus.KeyBySubject())
		if err != nil {
			return err
		}
		return c.Drain(ctx)
	},
	"`Consumer.Pause`, `Consumer.Resume`": func(ctx context.Context, _ *bus.Bus, st *bus.Stream) error {
		c, err := bus.Consume(ctx, st, "paused", "v.paused", ignore[int])
		if err != nil {
			return err
		}
		pause, resume := c.Pause(ctx, time.Now().Add(time.Hour)), c.Resume(ctx)
		if (pause == nil) != (resume == nil) {
			return fmt.Errorf("Pause and Resume differ: %v, %v", pause, resume)
		}
		return errors.Join(pause, c.Drain(ctx))
	},
	"`PublishToBatch`": func(ctx context.Context, b *bus.Bus, st *bus.Stream) error {
		_ = declareWith(ctx, b, st, func(c *bus.StreamConfig) { c.AtomicBatches = true })
		_, err := bus.PublishToBatch(ctx, st, bus.ItemOf(bus.Subject[int]("v.batch"), 1), bus.ItemOf(bus.Subject[int]("v.batch"), 2))
		return err
	},
	"`StreamConfig.AtomicBatches`": func(ctx context.Context, b *bus.Bus, st *bus.Stream) error {
		return declareWith(ctx, b, st, func(c *bus.StreamConfig) { c.AtomicBatches = true })
	},
	"`Consumer.Rewind`": func(ctx context.Context, _ *bus.Bus, st *bus.Stream) error {
		c, err := bus.Consume(ctx, st, "rewound", "v.rewound", ignore[int])
		if err != nil {
			return err
		}
		return errors.Join(c.Rewind(ctx, bus.StartAtFirst()), c.Drain(ctx))
	},
}

// declareWith declares st with a change.
func declareWith(ctx context.Context, b *bus.Bus, st *bus.Stream, change func(*bus.StreamConfig)) error {
	c := bus.StreamConfig{Name: st.Name(), Subjects: []string{"v.>"}}
	change(&c)
	_, err := b.Stream(ctx, c)
	return err
}

// The table in docs/modes.md has a row for each call that this file tries, and for each
// feature that the library asks for, with the same version.
func TestVersionTable(t *testing.T) {
	t.Parallel()
	table := versionTable(t)
	for call := range table {
		if versionCalls[call] == nil {
			t.Errorf("docs/modes.md has %s, which this file does not try", call)
		}
	}
	for call := range versionCalls {
		if _, ok := table[call]; !ok {
			t.Errorf("docs/modes.md does not have %s", call)
		}
	}
	if table["`Connect`"] != serverversion.Oldest {
		t.Errorf("docs/modes.md says that %v is the oldest supported server", table["`Connect`"])
	}
	readme, err := os.ReadFile("README.md")
	must(t, err)
	if !strings.Contains(string(readme), "oldest supported server is nats-server "+serverversion.Oldest.String()+" ") {
		t.Error("README.md does not name the oldest supported server")
	}
	for _, f := range serverversion.Features {
		name, _, _ := strings.Cut(f.Call, " ")
		found := false
		for call, v := range table {
			found = found || v == f.Since && strings.Contains(call, name+"`")
		}
		if !found {
			t.Errorf("docs/modes.md does not say that %s needs %v", f.Call, f.Since)
		}
	}
}

// A server that is too old is refused at once, and one that becomes too old is reported.
func TestConnectRefusesOldServers(t *testing.T) {
	t.Parallel()
	_, _, r, events := remote(t)
	for version, wants := range map[string]string{
		"2.9.25":  "and the server is 2.9.25: upgrade the server, or connect to another server",
		"2.10.0":  "",
		"unknown": "", // counts as the oldest supported one
	} {
		rewrite := func(p []byte) []byte { return versionInInfo.ReplaceAll(p, []byte(`"version":"`+version+`"`)) }
		r.rewrite.Store(&rewrite)
		b, err := bus.Connect(t.Context(), r.url(), bus.WithLogger(silent()))
		if wants == "" {
			must(t, err)
			e := asError[*bus.UnsupportedError](t, second(bus.PublishToBatch(t.Context(), declare(t, b, bus.StreamConfig{Name: "S"}), bus.ItemOf(bus.Subject[int]("S"), 1))))
			if e.Server != version {
				t.Errorf("got %+v", e)
			}
			must(t, b.Close())
			continue
		}
		asError[*bus.ConnectError](t, err, "cannot connect to nats://", "Connect needs nats-server 2.10 or newer", wants)
		if e := asError[*bus.UnsupportedError](t, err); e.Call != "Connect" || e.Version != "2.10" || e.Server != version {
			t.Errorf("got %+v", e)
		}
	}
	old := func(p []byte) []byte { return versionInInfo.ReplaceAll(p, []byte(`"version":"2.9.25"`)) }
	r.rewrite.Store(&old)
	r.cut(false)
	asError[*bus.UnsupportedError](t, awaitEvent(t, events, event.ServerError).Err, "Connect needs nats-server 2.10")
}

// TestServerVersions tries the essential things on real servers, each in its own process.
func TestServerVersions(t *testing.T) {
	t.Parallel()
	dir := os.Getenv(serversVariable)
	if dir == "" {
		t.Skipf("SKIPPED: %s is not set. It names a directory with vX.Y.Z/nats-server of the versions to try; .ci/run makes one", serversVariable)
	}
	binaries, err := filepath.Glob(filepath.Join(dir, "v*", "nats-server"))
	must(t, err)
	if len(binaries) < 2 {
		t.Fatalf("%s has %d servers", dir, len(binaries))
	}
	table := versionTable(t)
	slices.SortFunc(binaries, func(a, b string) int {
		v, _ := serverversion.Parse(filepath.Base(filepath.Dir(a)))
		w, _ := serverversion.Parse(filepath.Base(filepath.Dir(b)))
		return cmp.Or(cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
	})
	t.Run("upgrade", func(t *testing.T) {
		t.Parallel()
		tryUpgrade(t, slices.DeleteFunc(slices.Clone(binaries), func(binary string) bool {
			v, _ := serverversion.Parse(filepath.Base(filepath.Dir(binary)))
			return !v.AtLeast(serverversion.Oldest)
		}))
	})
	for _, binary := range binaries {
		name := filepath.Base(filepath.Dir(binary))
		version, ok := serverversion.Parse(name)
		if !ok {
			t.Fatalf("%s is not the name of a version", name)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := startServer(t, binary)
			b, err := bus.Connect(t.Context(), url, bus.WithLogger(silent()))
			if !version.AtLeast(serverversion.Oldest) {
				asError[*bus.UnsupportedError](t, err, name[1:])
				return
			}
			must(t, err)
			t.Cleanup(func() { must(t, b.Close()) })
			for call, needs := range table {
				t.Run(strings.ReplaceAll(call, "`", ""), func(t *testing.T) { tryCall(t, b, call, version.AtLeast(needs), name[1:]) })
			}
			t.Run("switch", func(t *testing.T) { trySwitch(t, url, version) })
			for name, try := range map[string]func(*testing.T, *bus.Bus, serverversion.Version){
				"core": versionCore, "streams": versionStreams, "raw": versionRaw, "conditions": versionConditions, "consume": versionConsume,
				"dead letters": versionDeadLetters, "keys": versionKeys, "replay": versionReplay, "pause": versionPause, "batch": versionBatch,
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					try(t, b, version)
				})
			}
		})
	}
}

// tryCall makes a call of the table: it works, or it is refused and nothing is stored.
func tryCall(t *testing.T, b *bus.Bus, call string, works bool, version string) {
	t.Helper()
	name := regexp.MustCompile(`[^A-Za-z]`).ReplaceAllString(call, "") // nats-server 2.11 may find messages of a stream that was just deleted under the same name
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: name, Subjects: []string{"v.>"}})
	must(t, err)
	defer func() { must(t, st.Delete(t.Context())) }()
	err = versionCalls[call](t.Context(), b, st)
	if works {
		must(t, err)
		return
	}
	e := asError[*bus.UnsupportedError](t, err, "or newer")
	if e.Version == "" || e.Stream == "" && e.Server != version {
		t.Errorf("got %+v", e)
	}
	if got := replayed[int](t, st, "v.>"); len(got) > 0 {
		t.Errorf("%d messages were stored", len(got))
	}
}

// trySwitch switches a bus to a server, which must be new enough.
func trySwitch(t *testing.T, url string, version serverversion.Version) {
	t.Parallel()
	b := ownBus(t)
	st := declare(t, b, bus.StreamConfig{Name: "SWITCHED", Subjects: []string{"switched.*"}})
	second(bus.PublishTo(t.Context(), st, bus.Subject[int]("switched.a"), 1))
	_, err := b.SwitchTo(t.Context(), url)
	if version.AtLeast(serverversion.Version{Major: 2, Minor: 15}) {
		must(t, err)
		return
	}
	asError[*switchover.ObstacleError](t, err, "the target is nats-server "+version.String(), "cannot restore everything that is in a snapshot", "update its servers to 2.15 or newer")
}

// serverProcess is a server with JetStream in a process of its own, on one port and directory.
type serverProcess struct {
	t    *testing.T
	addr string
	dir  string
	cmd  *exec.Cmd
}

// startServer starts a server and returns its URL.
func startServer(t *testing.T, binary string) string {
	t.Helper()
	p := newServerProcess(t)
	p.start(binary)
	return "nats://" + p.addr
}

func newServerProcess(t *testing.T) *serverProcess {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &serverProcess{t: t, addr: free.Addr().String(), dir: t.TempDir()}
	must(t, free.Close())
	t.Cleanup(p.stop)
	return p
}

// start starts a server and waits until it accepts connections.
func (p *serverProcess) start(binary string) {
	p.t.Helper()
	host, port, err := net.SplitHostPort(p.addr)
	must(p.t, err)
	p.cmd = exec.Command(binary, "-js", "-sd", p.dir, "-a", host, "-p", port)
	must(p.t, p.cmd.Start())
	eventually(p.t, "the server accepts connections", func() bool {
		nc, err := net.Dial("tcp", p.addr)
		if err == nil {
			_ = nc.Close()
		}
		return err == nil
	})
}

// stop stops the server as its operator does.
func (p *serverProcess) stop() {
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(os.Interrupt)
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

// tryUpgrade replaces the server under a running bus by the next version, from the oldest
// supported one to the newest. Nothing is lost, and calls work as soon as the server has them.
func tryUpgrade(t *testing.T, binaries []string) {
	ctx := t.Context()
	p := newServerProcess(t)
	p.start(binaries[0])
	b, err := bus.Connect(ctx, "nats://"+p.addr, bus.WithLogger(silent()), bus.WithTimeout(20*time.Second))
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	st := declare(t, b, bus.StreamConfig{Name: "UP", Subjects: []string{"up.*"}})
	got := make(chan int, 100)
	handle := func(_ context.Context, m *bus.Msg[int]) error {
		if m.Data < 0 {
			return bus.Permanent(errors.New("no"))
		}
		got <- m.Data
		return nil
	}
	consume(t, st, "d", "up.*", handle)
	for i, binary := range binaries {
		if i > 0 {
			p.stop()
			p.start(binary)
			eventually(t, "the bus is connected again", func() bool { return b.Conn().IsConnected() })
		}
		version, _ := serverversion.Parse(filepath.Base(filepath.Dir(binary)))
		for _, n := range []int{i, -1} {
			_, err := bus.PublishTo(ctx, st, bus.Subject[int]("up.x"), n, bus.MsgID(fmt.Sprint(i, " ", n)))
			must(t, err)
		}
		if n := receive(t, got); n != i {
			t.Errorf("on %v %d was handled, want %d", version, n, i)
		}
		eventually(t, "the dead letter is stored", func() bool {
			n, err := st.DeadCount(ctx, bus.DeadFilter{})
			return n == i+1 && err == nil
		})
		consume(t, st, fmt.Sprint("d", i), "up.other", handle)
		retry, err := b.JetStream().Stream(ctx, "UP-retry")
		must(t, err)
		if has := retry.CachedInfo().Config.AllowMsgSchedules; has != version.AtLeast(serverversion.Schedules.Since) {
			t.Errorf("on %v S-retry has schedules: %v", version, has)
		}
		_, err = bus.PublishTo(ctx, st, bus.Subject[int]("up.unheard"), 1, bus.ExpectLastSequenceOf("up.none", 7))
		if version.AtLeast(serverversion.ExpectLastSequenceOf.Since) {
			asError[*bus.ConflictError](t, err)
		} else {
			asError[*bus.UnsupportedError](t, err)
		}
	}
}

func versionCore(t *testing.T, b *bus.Bus, _ serverversion.Version) {
	got := make(chan int, 1)
	_, err := bus.Subscribe(b, "core.*", func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil })
	must(t, err)
	must(t, bus.Publish(t.Context(), b, bus.Subject[int]("core.x"), 7))
	if n := receive(t, got); n != 7 {
		t.Errorf("received %d", n)
	}
	double := bus.Endpoint[int, int]("core-double")
	isError(t, second(bus.Request(t.Context(), b, double, 21)), bus.ErrNoResponders)
	_, err = bus.Respond(b, double, func(_ context.Context, m *bus.Msg[int]) (int, error) { return 2 * m.Data, nil })
	must(t, err)
	if n, err := bus.Request(t.Context(), b, double, 21); n != 42 || err != nil {
		t.Errorf("the reply is %d, %v", n, err)
	}
}

func versionStreams(t *testing.T, b *bus.Bus, _ serverversion.Version) {
	config := bus.StreamConfig{Name: "STREAMS", Subjects: []string{"streams.>"}, MaxMsgs: 1000, Revision: 5, Metadata: map[string]string{"team": "a"}}
	declare(t, b, config)
	config.MaxMsgs, config.Revision = 2000, 3
	st := declare(t, b, config)
	js, err := b.JetStream().Stream(t.Context(), "STREAMS")
	must(t, err)
	if c := js.CachedInfo().Config; c.MaxMsgs != 1000 || c.Metadata["team"] != "a" || !c.AllowDirect {
		t.Errorf("after an older revision it has %+v", c)
	}
	config.MaxMsgs, config.Revision = 10, 6
	asError[*bus.StreamConflictError](t, second(b.Stream(t.Context(), config)), "MaxMsgs")
	for i := range 5 {
		second(bus.PublishTo(t.Context(), st, "streams.x", i))
	}
	if n, err := st.Purge(t.Context(), bus.PurgeFilter{Keep: 2}); n != 3 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	must(t, st.Delete(t.Context()))
	isError(t, second(b.LookupStream(t.Context(), "STREAMS")), bus.ErrStreamNotFound)
}

// Fields that only Raw sets are refused too, and not left out.
func versionRaw(t *testing.T, b *bus.Bus, v serverversion.Version) {
	for name, field := range map[string]struct {
		since int // minor version
		set   func(*jetstream.StreamConfig)
	}{
		"Markers":   {11, func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = time.Minute }},
		"Counters":  {12, func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true }},
		"Schedules": {12, func(c *jetstream.StreamConfig) { c.AllowMsgSchedules = true }},
		"Persist":   {12, func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode }},
		"Ingest":    {14, func(c *jetstream.StreamConfig) { c.AllowBatchPublish = true }},
		"Transform": {10, func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "raw.Transform.>", Destination: "raw.Transform.x.>"}
		}},
		"FirstSeq": {10, func(c *jetstream.StreamConfig) { c.FirstSeq = 100 }},
	} {
		_, err := b.Stream(t.Context(), bus.StreamConfig{Name: "RAW" + name, Subjects: []string{"raw." + name + ".>"}, Raw: field.set})
		if v.Minor >= field.since {
			must(t, err)
			continue
		}
		if e := asError[*bus.UnsupportedError](t, err, "use nats-server 2."); e.Version != fmt.Sprint("2.", field.since) || e.Changed {
			t.Errorf("%s: got %+v", name, e)
		}
		isError(t, second(b.LookupStream(t.Context(), "RAW"+name)), bus.ErrStreamNotFound)
	}
}

func versionConditions(t *testing.T, b *bus.Bus, v serverversion.Version) {
	st := declare(t, b, bus.StreamConfig{Name: "CONDITIONS", Subjects: []string{"conditions.*"}})
	store := func(s bus.Subject[int], opts ...bus.StoreOption) (*bus.Ack, error) {
		return bus.PublishTo(t.Context(), st, s, 1, opts...)
	}
	first, err := store("conditions.a", bus.MsgID("one"), bus.ExpectLastSequence(0))
	must(t, err)
	if again, err := store("conditions.a", bus.MsgID("one")); err != nil || !again.Duplicate || again.Sequence != first.Sequence {
		t.Errorf("once more: %+v, %v", again, err)
	}
	if again, err := store("conditions.a", bus.MsgID("one"), bus.ExpectLastSequence(0)); err != nil || !again.Duplicate {
		t.Errorf("once more with its expectation: %+v, %v", again, err)
	}
	second(store("conditions.b", bus.AutoID()))
	asError[*bus.ConflictError](t, second(store("conditions.a", bus.ExpectLastSequence(1))))
	asError[*bus.ConflictError](t, second(store("conditions.b", bus.ExpectLastSubjectSequence(1))))
	if v.AtLeast(serverversion.ExpectLastSequenceOf.Since) {
		if e := asError[*bus.ConflictError](t, second(store("conditions.c", bus.ExpectLastSequenceOf("conditions.*", 1)))); e.Actual != 2 {
			t.Errorf("got %+v", e)
		}
	}
	future, err := bus.PublishToAsync(t.Context(), st, "conditions.a", 1)
	must(t, err)
	if ack, err := future.Wait(t.Context()); err != nil || ack.Sequence != 3 {
		t.Errorf("got %+v, %v", ack, err)
	}
}

func versionConsume(t *testing.T, b *bus.Bus, _ serverversion.Version) {
	st := declare(t, b, bus.StreamConfig{Name: "CONSUME", Subjects: []string{"consume.>"}})
	var mux bus.Mux
	got := make(chan *bus.Msg[int], 100)
	take := func(_ context.Context, m *bus.Msg[int]) error {
		if m.Data%5 == 0 && m.Attempt < 3 {
			return errors.New("not yet")
		}
		got <- m
		return nil
	}
	bus.Handle(&mux, "consume.a", take)
	bus.Handle(&mux, "consume.b.*", take)
	con, err := st.Consume(t.Context(), "d", &mux, bus.Retry(bus.RetryPolicy{MinBackoff: 20 * time.Millisecond}), bus.Concurrency(4))
	must(t, err)
	for i := range 30 {
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[int]([]string{"consume.a", "consume.b.x", "consume.c"}[i%3]), i)
		must(t, err)
	}
	var all []int
	for range 20 {
		m := receive(t, got)
		if all = append(all, m.Data); m.Data%5 == 0 && m.Attempt != 3 {
			t.Errorf("%d was handled at attempt %d", m.Data, m.Attempt)
		}
	}
	if slices.Sort(all); len(slices.Compact(all)) != 20 {
		t.Errorf("handled %v", all)
	}
	eventually(t, "all is settled", func() bool {
		l, err := con.Lag(t.Context())
		return err == nil && l.Waiting+l.Unfinished == 0
	})
	must(t, con.Drain(t.Context()))

	// What waits long for its retry outlives the consumer's drain.
	var mended atomic.Bool
	var failed atomic.Int32
	wait := func(_ context.Context, m *bus.Msg[int]) error {
		if !mended.Load() {
			failed.Add(1)
			return errors.New("not yet")
		}
		got <- m
		return nil
	}
	policy := bus.Retry(bus.RetryPolicy{MinBackoff: 2 * time.Second, MaxBackoff: 2 * time.Second})
	con = consume(t, st, "late", "consume.c", wait, policy)
	eventually(t, "each has failed", func() bool { return failed.Load() >= 10 })
	mended.Store(true)
	must(t, con.Drain(t.Context()))
	consume(t, st, "late", "consume.c", wait, policy)
	for range 10 {
		receive(t, got)
	}
}

func versionDeadLetters(t *testing.T, b *bus.Bus, _ serverversion.Version) {
	st := declare(t, b, bus.StreamConfig{Name: "DEAD", Subjects: []string{"dead.*"}})
	h := newMendable[int]()
	consume(t, st, "d", "dead.*", h.handle)
	for i := range 20 {
		second(bus.PublishTo(t.Context(), st, bus.Subject[int]("dead.x"), i))
	}
	count := func() int {
		n, err := st.DeadCount(t.Context(), bus.DeadFilter{})
		must(t, err)
		return n
	}
	eventually(t, "all are dead letters", func() bool { return count() == 20 })
	listed := 0
	for l, err := range st.DeadLetters(t.Context(), bus.DeadFilter{Durable: "d"}) {
		must(t, err)
		if listed++; l.Sequence != uint64(listed) {
			t.Errorf("number %d is of message %d", listed, l.Sequence)
		}
	}
	if n, err := st.Discard(t.Context(), bus.DeadFilter{Sequence: 1}); n != 1 || err != nil || listed != 20 {
		t.Errorf("%d listed, %d discarded, %v", listed, n, err)
	}
	h.mended.Store(true)
	if n, err := st.Redrive(t.Context(), bus.DeadFilter{}); n != 19 || err != nil {
		t.Errorf("%d redriven, %v", n, err)
	}
	for range 19 {
		receive(t, h.got)
	}
	if n := count(); n != 0 {
		t.Errorf("%d dead letters are left", n)
	}
}

func versionKeys(t *testing.T, b *bus.Bus, v serverversion.Version) {
	if !v.AtLeast(serverversion.SharedKeys.Since) {
		return // the table has it
	}
	st := declare(t, b, bus.StreamConfig{Name: "KEYS", Subjects: []string{"keys.*"}})
	var order keyOrder
	for _, who := range []string{"first", "second"} {
		consume(t, st, "d", "keys.*", order.handler(t, who), bus.KeyBySubject(), bus.Concurrency(4))
	}
	for i := range 200 {
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprint("keys.", i%10)), i)
		must(t, err)
	}
	eventually(t, "all are handled", func() bool { return order.count("first")+order.count("second") == 200 })
}

func versionReplay(t *testing.T, b *bus.Bus, _ serverversion.Version) {
	for _, retention := range []bus.Retention{bus.LimitsRetention, bus.WorkQueueRetention} {
		st := declare(t, b, bus.StreamConfig{Name: fmt.Sprint("REPLAY", retention), Subjects: []string{fmt.Sprintf("replay%v.*", retention)}, Retention: retention})
		var middle time.Time
		for i := range 300 {
			if i == 150 {
				middle = time.Now()
				time.Sleep(10 * time.Millisecond) // clocks of two processes on one machine
			}
			_, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("replay%v.%d", retention, i%3)), i)
			must(t, err)
		}
		all := bus.Subject[int](st.Subjects()[0])
		third := bus.Subject[int](fmt.Sprintf("replay%v.2", retention))
		for _, tc := range []struct {
			name    string
			subject bus.Subject[int]
			opts    []bus.ReplayOption
			first   int
			many    int
		}{
			{"all", all, nil, 0, 300},
			{"a third", third, nil, 2, 100},
			{"the last", all, []bus.ReplayOption{bus.Last(1)}, 299, 1},
			{"the last 50", all, []bus.ReplayOption{bus.Last(50)}, 250, 50},
			{"the last 7 of a third", third, []bus.ReplayOption{bus.Last(7)}, 281, 7},
			{"more than there are", third, []bus.ReplayOption{bus.Last(1000)}, 2, 100},
			{"from a sequence", all, []bus.ReplayOption{bus.StartAtSequence(101)}, 100, 200},
			{"from a time", all, []bus.ReplayOption{bus.StartAtTime(middle)}, 150, 150},
		} {
			began := time.Now()
			got := values(replayed(t, st, tc.subject, tc.opts...))
			if len(got) != tc.many || got[0] != tc.first || !slices.IsSorted(got) {
				t.Errorf("%v, %s: read %v", retention, tc.name, got)
			}
			if took := time.Since(began); took > 2*time.Second { // a message lost takes that long
				t.Errorf("%v, %s: it took %v", retention, tc.name, took)
			}
		}
	}
}

func versionPause(t *testing.T, b *bus.Bus, v serverversion.Version) {
	if !v.AtLeast(serverversion.Pause.Since) {
		return // the table has it
	}
	st := declare(t, b, bus.StreamConfig{Name: "PAUSE", Subjects: []string{"pause.*"}})
	got := make(chan int, 100)
	con := consume(t, st, "d", "pause.*", func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil })
	second(bus.PublishTo(t.Context(), st, bus.Subject[int]("pause.x"), 1))
	receive(t, got)
	must(t, con.Pause(t.Context(), time.Time{}))
	eventually(t, "it is paused", func() bool {
		l, err := con.Lag(t.Context())
		return err == nil && !l.PausedUntil.IsZero() && l.Unfinished == 0
	})
	must(t, con.Resume(t.Context()))
	second(bus.PublishTo(t.Context(), st, bus.Subject[int]("pause.x"), 2))
	receive(t, got)
	if !v.AtLeast(serverversion.Rewind.Since) {
		return
	}
	must(t, con.Rewind(t.Context(), bus.StartAtFirst()))
	if first, then := receive(t, got), receive(t, got); first != 1 || then != 2 {
		t.Errorf("after Rewind %d and %d were handled", first, then)
	}
}

func versionBatch(t *testing.T, b *bus.Bus, v serverversion.Version) {
	if !v.AtLeast(serverversion.PublishToBatch.Since) {
		return // the table has it
	}
	st := declare(t, b, bus.StreamConfig{Name: "BATCH", Subjects: []string{"batch.*"}, AtomicBatches: true})
	item := func(n int, opts ...bus.StoreOption) bus.Item {
		return bus.ItemOf(bus.Subject[int](fmt.Sprint("batch.", n)), n, opts...)
	}
	asError[*bus.ConflictError](t, second(bus.PublishToBatch(t.Context(), st, item(1), item(2, bus.ExpectLastSubjectSequence(77)), item(3))))
	ack, err := bus.PublishToBatch(t.Context(), st, item(1, bus.MsgID("one")), item(2), item(3))
	if err != nil || ack.First != 1 || ack.Sequence != 3 {
		t.Errorf("got %+v, %v", ack, err)
	}
	if again, err := bus.PublishToBatch(t.Context(), st, item(1, bus.MsgID("one")), item(2), item(3)); err != nil || !again.Duplicate {
		t.Errorf("once more: %+v, %v", again, err)
	}
}

var versionInInfo = regexp.MustCompile(`"version":"[^"]*"`)
