package bus_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/serverversion"
	"github.com/omnibus-go/bus/internal/testserver"
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
			p := newServerOf(t, binary)
			p.start()
			b, err := bus.Connect(t.Context(), p.url(), bus.WithLogger(silent()))
			if !version.AtLeast(serverversion.Oldest) {
				asError[*bus.UnsupportedError](t, err, name[1:])
				return
			}
			must(t, err)
			t.Cleanup(func() { must(t, b.Close()) })
			for call, needs := range table {
				t.Run(strings.ReplaceAll(call, "`", ""), func(t *testing.T) { tryCall(t, b, call, version.AtLeast(needs), name[1:]) })
			}
			t.Run("switch", func(t *testing.T) { trySwitch(t, p.url(), version) })
			leaveWork(t, b)
			other, err := bus.Connect(t.Context(), p.url(), bus.WithLogger(silent()))
			must(t, err)
			t.Cleanup(func() { must(t, other.Close()) })
			t.Run("behaviours", func(t *testing.T) { tryBehaviours(t, &place{bus: b, peer: other, twin: other}) })
			finishWork(t, b)
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

// trySwitch switches a bus to a server, which must be new enough. So it must be for a switch home.
func trySwitch(t *testing.T, url string, version serverversion.Version) {
	b := ownBus(t)
	st := declare(t, b, bus.StreamConfig{Name: "SWITCHED", Subjects: []string{"switched.*"}})
	second(bus.PublishTo(t.Context(), st, bus.Subject[int]("switched.a"), 1))
	_, err := b.SwitchTo(t.Context(), url)
	if version.AtLeast(serverversion.Version{Major: 2, Minor: 15}) {
		must(t, err)
		return
	}
	asError[*switchover.ObstacleError](t, err, "the target is nats-server "+version.String(), "cannot restore everything that is in a snapshot", "update its servers to 2.15 or newer")
	b = elsewhere(t, url)
	declare(t, b, bus.StreamConfig{Name: "THERE", Subjects: []string{"there.*"}})
	_, err = b.SwitchTo(t.Context(), switchover.Embedded)
	asError[*switchover.ObstacleError](t, err, "1 in the way", "the streams are at nats-server "+version.String()+", which makes no snapshots that can be taken home", "update its servers to 2.15 or newer")
}

// newServerOf returns a server of a binary that is not started yet.
func newServerOf(t *testing.T, binary string) *serverProcess {
	t.Helper()
	return newServer(t, binary, serverConfig{Dir: t.TempDir(), Port: testserver.FreePorts(t, 1)[0]})
}

// tryUpgrade replaces the server under a running bus by the next version, from the oldest
// supported one to the newest. Nothing is lost, and calls work as soon as the server has them.
func tryUpgrade(t *testing.T, binaries []string) {
	ctx := t.Context()
	p := newServerOf(t, binaries[0])
	p.start()
	b, err := bus.Connect(ctx, p.url(), bus.WithLogger(silent()), bus.WithTimeout(20*time.Second))
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
			p.binary = binary
			p.start()
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

var versionInInfo = regexp.MustCompile(`"version":"[^"]*"`)
