package bus_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// refusedOn fails the test unless a bus on dir is refused with a *StoreError that
// says parts.
func refusedOn(t testing.TB, dir string, parts ...string) error {
	t.Helper()
	b, err := quietBus(bus.WithStoreDir(dir))
	if err == nil {
		t.Fatalf("it was opened (and closed: %v)", b.Close())
	}
	if e := asError[*bus.StoreError](t, err, parts...); e.Dir != dir {
		t.Errorf("the error is about %q, want %q", e.Dir, dir)
	}
	return err
}

// filled returns a directory with the streams S, of 100 messages and a consumer
// that has handled half of them, and T, of one message.
func filled(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	b := openOn(t, dir, bus.WithSync(bus.SyncEvery(time.Second)))
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	storeRange(t, st, "S", 0, 50)
	h, got := collect[int](100)
	con := consume(t, st, "c", "S", h)
	for range 50 {
		receive(t, got)
	}
	must(t, con.Drain(t.Context()))
	storeRange(t, st, "S", 50, 100)
	storeRange(t, declare(t, b, bus.StreamConfig{Name: "T", MaxAge: 24 * time.Hour}), "T", 0, 1)
	must(t, b.Close())
	return dir
}

// mustBeUnharmed fails the test unless everything that filled made is there.
func mustBeUnharmed(t testing.TB, dir string) {
	t.Helper()
	b := openOn(t, dir)
	mustHold(t, b, "S", 1, 100)
	mustHold(t, b, "T", 1, 1)
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	h, got := collect[int](200)
	consume(t, st, "c", "S", h)
	for want := 50; want < 100; want++ {
		if v := receive(t, got); v != want {
			t.Fatalf("the consumer got %d, want %d", v, want)
		}
	}
	must(t, b.Close())
}

// snapshot is the content of all files under dir, by path; that of a folder is its mode.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			all[path] = e.Type().String()
			return err
		}
		data, err := os.ReadFile(path)
		all[path] = string(data)
		return err
	}))
	return all
}

// A restart keeps the messages as they were, with the IDs that were used.
func TestStoreKeepsMessages(t *testing.T) {
	t.Parallel()
	for name, sync := range map[string]bus.SyncPolicy{"always": bus.SyncAlways, "now and then": bus.SyncEvery(time.Second)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "a", "b")
			var times []time.Time
			for round := range 4 {
				b := openOn(t, dir, bus.WithSync(sync))
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				if round > 0 {
					mustHold(t, b, "S", 1, uint64(10*round))
					ack, err := bus.PublishTo(t.Context(), st, "s.x", order{ID: "changed"}, bus.MsgID(fmt.Sprint(10*round)))
					if err != nil || *ack != (bus.Ack{Stream: "S", Sequence: uint64(10 * round), Duplicate: true}) {
						t.Errorf("the last ID once more: got %+v, %v", ack, err)
					}
				}
				for i := 10 * round; i < 10*round+10; i++ {
					_, err := bus.PublishTo(t.Context(), st, "s.a", order{ID: fmt.Sprint(i)}, bus.MsgID(fmt.Sprint(i+1)), bus.WithHeader("X-A", "b"))
					must(t, err)
				}
				h, got := whole[order](100)
				consume(t, st, "reader-"+fmt.Sprint(round), "s.*", h)
				for i := range 10*round + 10 {
					m := receive(t, got)
					if m.Data.ID != fmt.Sprint(i) || m.Sequence != uint64(i+1) || m.ID != fmt.Sprint(i+1) || m.Header.Get("X-A") != "b" || m.Subject != "s.a" {
						t.Fatalf("got %+v", m)
					}
					if i < len(times) && !m.Time.Equal(times[i]) {
						t.Errorf("message %d is of %v, was of %v", i, m.Time, times[i])
					}
					if i >= len(times) {
						times = append(times, m.Time)
					}
				}
				must(t, b.Close())
			}
		})
	}
}

// A stream in memory ends with its bus, also where others are on disk.
func TestMemoryStreamsEndWithTheBus(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openOn(t, dir)
	storeRange(t, declare(t, b, bus.StreamConfig{Name: "M", Storage: bus.MemoryStorage}), "M", 0, 3)
	storeRange(t, declare(t, b, bus.StreamConfig{Name: "F"}), "F", 0, 3)
	must(t, b.Close())
	b = openOn(t, dir)
	_, err := b.LookupStream(t.Context(), "M")
	isError(t, err, bus.ErrStreamNotFound)
	mustHold(t, b, "F", 1, 3)
	must(t, b.Close())
}

// The names by which servers know each other stay with the directory.
func TestStoreKeepsItsNames(t *testing.T) {
	t.Parallel()
	type names struct{ server, domain string }
	look := func(opts ...bus.Option) names {
		b := ownBus(t, opts...)
		defer func() { must(t, b.Close()) }()
		account, err := b.JetStream().AccountInfo(t.Context())
		must(t, err)
		return names{b.Conn().ConnectedServerName(), account.Domain}
	}
	dir := filepath.Join(t.TempDir(), "x")
	first := look(bus.WithStoreDir(dir))
	if first.server == "" || first.domain == "" {
		t.Errorf("the names are %+v", first)
	}
	for range 3 {
		if again := look(bus.WithStoreDir(dir), bus.WithName("another")); again != first {
			t.Errorf("the names were %+v and are %+v", first, again)
		}
	}
	moved := dir + "-moved"
	must(t, os.Rename(dir, moved))
	if again := look(bus.WithStoreDir(moved)); again != first {
		t.Errorf("the names were %+v and are %+v", first, again)
	}
	other, memory := look(bus.WithStoreDir(dir)), look()
	if other.server == first.server || other.domain == first.domain || memory.server == first.server || memory.domain == first.domain {
		t.Errorf("different stores have the names %+v, %+v and %+v", first, other, memory)
	}
}

// A second bus on a directory learns who has it, whichever way it names it, and
// the first one does not notice.
func TestStoreIsLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	link := filepath.Join(t.TempDir(), "link")
	paths := []string{dir, dir + string(filepath.Separator), filepath.Join(dir, "data") + "/.."}
	if err := os.Symlink(dir, link); err == nil {
		paths = append(paths, link)
	}
	for _, path := range paths {
		storeRange(t, st, "S", 0, 1)
		err := refusedOn(t, path, "is open in this process already", "close it first")
		if locked := asError[*bus.StoreError](t, err); locked.Problem != bus.StoreLocked || locked.PID != os.Getpid() || locked.Bus != b.Conn().ConnectedServerName() {
			t.Errorf("the owner is %+v", locked)
		}
	}
	storeRange(t, st, "S", 0, 1)
	must(t, b.Close())
	b = openOn(t, dir)
	mustHold(t, b, "S", 1, uint64(len(paths)+1))
	must(t, b.Close())
}

const (
	envDir = "BUS_TEST_DIR"
	envPID = "BUS_TEST_PID"
)

func TestStoreIsLockedByAnotherProcess(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv(envDir); dir != "" {
		pid, err := strconv.Atoi(os.Getenv(envPID))
		must(t, err)
		text := refusedOn(t, dir, "in use by", fmt.Sprintf("pid %d", pid), "stop it or use another directory", "do not delete LOCK")
		if owner := asError[*bus.StoreError](t, text); owner.Problem != bus.StoreLocked || owner.PID != pid || owner.Program == "" || owner.Since.IsZero() {
			t.Errorf("the owner is %+v", owner)
		}
		return
	}
	dir := t.TempDir()
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	runAsChild(t, envDir+"="+dir, envPID+"="+fmt.Sprint(os.Getpid()))
	storeRange(t, st, "S", 0, 10)
	must(t, b.Close())
}

// A directory that cannot be used is refused with what to do, and left as it was.
func TestStoreDirThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	identity := func(text string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "omnibus.json"), []byte(text), 0o600))
		}
	}
	for _, tc := range []struct {
		name   string
		broken func(*testing.T, string)
		text   []string
	}{
		{"identity cut off", identity(`{"format": 1, "id": "x"`), []string{"omnibus.json", "damaged", "restore it from a backup"}},
		{"identity empty", identity(""), []string{"omnibus.json", "damaged", "restore it from a backup"}},
		{"identity of zeros", identity(strings.Repeat("\x00", 200)), []string{"damaged"}},
		{"identity without a name", identity(`{"format": 1, "id": "x", "domain": "d"}`), []string{"damaged", "server_name is missing"}},
		{"identity with a bad domain", identity(`{"format": 1, "id": "x", "server_name": "s", "domain": "a.b"}`), []string{"damaged", "domain"}},
		{"newer format", identity(`{"format": 4, "layout": ["another"]}`), []string{"format 4", "reads up to 3", "upgrade this program"}},
		{"no identity", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "omnibus.json"))) },
			[]string{"not a bus directory", "restore omnibus.json from a backup"}},
		{"data is a file", func(t *testing.T, dir string) {
			must(t, os.RemoveAll(filepath.Join(dir, "data")))
			must(t, os.WriteFile(filepath.Join(dir, "data"), nil, 0o600))
		}, []string{"data", "not a directory"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := filled(t)
			whole := filepath.Join(t.TempDir(), "copy")
			must(t, os.CopyFS(whole, os.DirFS(dir)))
			tc.broken(t, dir)
			before := snapshot(t, dir)
			for range 2 {
				refusedOn(t, dir, tc.text...)
			}
			if after := snapshot(t, dir); !maps.Equal(before, after) {
				t.Errorf("it was changed from %q to %q", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
			}
			mend(t, whole, dir)
			mustBeUnharmed(t, dir) // the lock is free, too
		})
	}
}

func TestStoreDirThatIsNone(t *testing.T) {
	t.Parallel()
	temp := t.TempDir()
	file := filepath.Join(temp, "file")
	must(t, os.WriteFile(file, []byte("mine"), 0o600))
	foreign := filepath.Join(temp, "foreign")
	must(t, os.MkdirAll(filepath.Join(foreign, "photos"), 0o700))
	plain := filepath.Join(temp, "plain")
	must(t, os.MkdirAll(filepath.Join(plain, "jetstream", "$G"), 0o700))
	before := snapshot(t, temp)
	refusedOn(t, file, file, "not a directory")
	refusedOn(t, filepath.Join(file, "below"), "a part of the path is a file", "use another path")
	refusedOn(t, foreign, "not a bus directory", `"photos"`, "use a new or empty directory")
	refusedOn(t, plain, "plain nats-server", "keep that server running")
	refusedOn(t, filepath.Join(readOnlyDir(t), "store"), "must be a directory that the user of this process may read and write")
	if after := snapshot(t, temp); !maps.Equal(before, after) {
		t.Errorf("something was changed: %v", after)
	}
	for _, e := range []string{refusedOn(t, file).Error(), refusedOn(t, foreign).Error()} {
		if strings.Count(e, "bus: ") > 1 || strings.Count(e, strconv.Quote(file)) > 1 {
			t.Errorf("the text says the same twice: %s", e)
		}
	}
}

// Nobody else on the machine can read what is stored.
func TestStoreIsPrivate(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		return // it knows no such modes
	}
	dir := filepath.Join(t.TempDir(), "made", "store")
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	storeRange(t, st, "S", 0, 10)
	con := consume(t, st, "c", "S", ignore[int])
	must(t, con.Drain(t.Context()))
	look := func() {
		seen := 0
		must(t, filepath.WalkDir(filepath.Dir(dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil // the server writes under other names first
			}
			must(t, err)
			seen++
			if mode := info.Mode().Perm(); mode&0o077 != 0 {
				t.Errorf("%s has mode %04o", path, mode)
			}
			return nil
		}))
		if seen < 15 {
			t.Errorf("only %d files and folders were found", seen)
		}
	}
	look()
	must(t, b.Close())
	look()
}

// The log says how safe stored messages are, before the first one is stored.
func TestStoreLogsItsDurability(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, tc := range []struct {
		name string
		opts []bus.Option
		want []string
	}{
		{"in memory", nil, []string{"streams are kept in memory", "WithStoreDir"}},
		{"in memory, with a class of its own", []bus.Option{bus.WithStoreDir(""), bus.WithSync(bus.SyncEvery(time.Second))}, []string{"streams are kept in memory"}},
		{"the default", []bus.Option{bus.WithStoreDir(dir)}, []string{"on disk", dir, "sync=always", "survives kill -9 and power cuts"}},
		{"always", []bus.Option{bus.WithStoreDir(dir), bus.WithSync(bus.SyncAlways)}, []string{"sync=always"}},
		{"now and then", []bus.Option{bus.WithStoreDir(dir), bus.WithSync(bus.SyncEvery(2 * time.Second))}, []string{"sync=2s", "survives kill -9; a power cut can lose the last 2s"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log lockedBuffer
			logger := hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Info})
			b := ownBus(t, append(tc.opts, bus.WithLogger(logger))...)
			for _, name := range []string{"A", "B"} {
				declare(t, b, bus.StreamConfig{Name: name})
			}
			must(t, b.Close())
			var said []string
			for line := range strings.Lines(log.String()) {
				if strings.Contains(line, "streams are kept") {
					said = append(said, line)
				}
			}
			if len(said) != 1 {
				t.Fatalf("the log has %d lines about it:\n%s", len(said), log.String())
			}
			hasText(t, errors.New(said[0]), tc.want...)
			if strings.Contains(said[0], "memory") != (len(tc.want) > 0 && strings.Contains(tc.want[0], "memory")) {
				t.Errorf("it says %s", said[0])
			}
		})
	}
}

// Streams in the directory are not left behind silently for another server.
func TestStoreWithStreamsIsNotLeftBehind(t *testing.T) {
	t.Parallel()
	server := bustest.New(t, anyPort())
	elsewhere := func(dir string) (*bus.Bus, error) {
		return quietBus(bus.WithStoreDir(dir), bus.WithURL(server.ClientURL()))
	}
	dir := filled(t)
	special := filepath.Join(t.TempDir(), "a [b] *? c")
	must(t, os.CopyFS(special, os.DirFS(dir)))
	for name, d := range map[string]string{"plain": dir, "special characters": special} {
		t.Run(name, func(t *testing.T) {
			before := snapshot(t, d)
			b, err := elsewhere(d)
			if b != nil {
				t.Fatal("it went to the server", b.Close())
			}
			e := asError[*bus.StoreError](t, err, strconv.Quote(d), "WithURL", "WithStoreDir")
			if e.Problem != bus.StoreUnmoved || e.Dir != d || !slices.Contains(e.Streams, "S") || !slices.Contains(e.Streams, "T") {
				t.Errorf("got %+v", e)
			}
			if after := snapshot(t, d); !maps.Equal(before, after) {
				t.Errorf("it was changed to %v", after)
			}
			mustBeUnharmed(t, d)
		})
	}
	absent := filepath.Join(t.TempDir(), "absent")
	empty := t.TempDir()
	used := t.TempDir()
	b := openOn(t, used)
	declare(t, b, bus.StreamConfig{Name: "GONE"})
	must(t, b.JetStream().DeleteStream(t.Context(), "GONE"))
	must(t, b.Close())
	for name, d := range map[string]string{"absent": absent, "empty": empty, "without streams": used} {
		t.Run(name, func(t *testing.T) {
			b, err := elsewhere(d)
			must(t, err)
			if r := b.Health(t.Context()); r.Embedded {
				t.Errorf("got %+v", r)
			}
			must(t, b.Close())
		})
	}
	if _, err := os.Stat(absent); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
}

// A start that fails for another reason leaves the directory free and as it was.
func TestStoreIsFreeAfterAFailedStart(t *testing.T) {
	t.Parallel()
	dir := filled(t)
	addr := taken(t)
	for range 3 {
		_, err := quietBus(bus.WithStoreDir(dir), bus.WithListen(addr))
		if e := asError[*bus.StartError](t, err); e.Addr != addr {
			t.Errorf("the error is %+v", e)
		}
		_, err = quietBus(bus.WithStoreDir(dir), bus.WithName("not a name"))
		asError[*bus.OptionError](t, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "OWNER")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory has an owner: %v", err)
	}
	mustBeUnharmed(t, dir)
}

// What is too much for the disk's limit is refused, and what was stored stays.
func TestStoreLimit(t *testing.T) {
	t.Parallel()
	dir := filled(t)
	b := openOn(t, dir, bus.WithMaxStore(256<<10))
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	for range 100 {
		if _, err = bus.PublishTo(t.Context(), st, "S", bytes.Repeat([]byte("x"), 16<<10)); err != nil {
			break
		}
	}
	asError[*bus.StreamError](t, err, "of 262144 bytes (WithMaxStore)", "Stream.Purge")
	must(t, b.Close())
	b = openOn(t, dir, bus.WithMaxStore(16<<10)) // a limit below what is there loses nothing
	if s := streamInfo(t, b, "S").State; s.FirstSeq != 1 || s.Msgs < 110 {
		t.Errorf("got %+v", s)
	}
	must(t, b.Close())
}

// A bus on disk goes on with streams of a plain NATS client's making.
func TestStoreOfOthersStreams(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openOn(t, dir)
	_, err := b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "KV_like", Subjects: []string{"$KV.like.>"}, MaxMsgsPerSubject: 1, AllowRollup: true})
	must(t, err)
	_, err = b.JetStream().Publish(t.Context(), "$KV.like.a", []byte("1"))
	must(t, err)
	must(t, b.Close())
	b = openOn(t, dir)
	mustHold(t, b, "KV_like", 1, 1)
	must(t, b.Close())
	_, err = quietBus(bus.WithStoreDir(dir), bus.WithURL("nats://127.0.0.1:1"))
	if e := asError[*bus.StoreError](t, err, "KV_like"); e.Problem != bus.StoreUnmoved {
		t.Errorf("got %+v", e)
	}
}
