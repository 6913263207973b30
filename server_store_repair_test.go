package bus_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/health"
)

// The tests of this file are about what a killed process had begun with streams and
// what the next start makes of it; see ADR 11.

func streamsOf(dir string) string { return filepath.Join(dir, "data", "jetstream", "$G", "streams") }

// makeAndRemove is the child: it makes streams with something in them, and removes
// them.
func makeAndRemove(t *testing.T, dir string, sync bus.SyncPolicy) {
	b := openOn(t, dir, bus.WithSync(sync))
	for n := 0; ; n++ {
		name := fmt.Sprintf("N-%d-%d", os.Getpid(), n)
		st := declare(t, b, bus.StreamConfig{Name: name})
		storeRange(t, st, bus.Subject[int](name), 0, 3)
		must(t, consume(t, st, "c", bus.Subject[int](name), ignore[int]).Drain(t.Context()))
		must(t, b.JetStream().DeleteStream(t.Context(), name))
		say("done")
	}
}

// A process that is killed while it makes and removes streams leaves a directory
// that opens, with all that others stored.
func TestKilledWhileStreamsComeAndGo(t *testing.T) {
	t.Parallel()
	for name, sync := range map[string]bus.SyncPolicy{"always": bus.SyncAlways, "relaxed": bus.SyncEvery(time.Hour)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if dir := victimDir(t); dir != "" {
				makeAndRemove(t, dir, sync)
			}
			dir := filled(t)
			for range underRace(4, 10) {
				v := startVictim(t, dir)
				enough, count := 1+rand.IntN(10), 0
				v.kill(t, func(string) bool {
					if count++; count == enough {
						spin(time.Duration(rand.IntN(5000)) * time.Microsecond) // somewhere in the middle
					}
					return count < enough
				})
				openAfterKill(t, dir)
			}
			mustBeUnharmed(t, dir)
		})
	}
}

// openAfterKill opens the directory and looks at what filled made. In the moment
// between the server's two steps of a removal nobody can tell it from damage: then
// the error says so, and what it advises helps.
func openAfterKill(t *testing.T, dir string) {
	t.Helper()
	b, err := quietBus(bus.WithStoreDir(dir))
	if err != nil {
		half := onlyHalfRemoved(t, dir)
		hasText(t, err, "move the damaged stream out of "+filepath.Join(dir, "data"), filepath.Base(half))
		must(t, os.Rename(half, filepath.Join(t.TempDir(), "out")))
		b, err = quietBus(bus.WithStoreDir(dir))
	}
	must(t, err)
	mustHold(t, b, "S", 1, 100)
	mustHold(t, b, "T", 1, 1)
	must(t, b.Close())
}

// onlyHalfRemoved returns the folder that is all that can be wrong after a kill.
func onlyHalfRemoved(t *testing.T, dir string) string {
	t.Helper()
	folders, err := filepath.Glob(filepath.Join(streamsOf(dir), "N-*"))
	must(t, err)
	folders = slices.DeleteFunc(folders, func(f string) bool {
		_, err := os.Stat(filepath.Join(f, "meta.inf"))
		return err == nil
	})
	if len(folders) != 1 {
		t.Fatalf("the start failed, and these have no configuration: %q", folders)
	}
	t.Logf("killed between the two steps of a removal: %s", folders[0])
	return folders[0]
}

// mended starts a bus on dir, looks at the log, and closes it.
func mended(t *testing.T, dir string, look func(b *bus.Bus), said ...string) {
	t.Helper()
	var log lockedBuffer
	b := ownBus(t, bus.WithStoreDir(dir), bus.WithLogger(hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Warn})))
	hasText(t, errors.New(log.String()), said...)
	if len(said) == 0 && strings.Contains(log.String(), "unfinished") {
		t.Errorf("the log says %s", log.String())
	}
	look(b)
	must(t, b.Close())
}

// A stream whose making was interrupted is set aside, and can be made anew.
func TestStoreSetsHalfMadeStreamsAside(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string][]string{
		"only the folder":      {},
		"folders":              {"msgs", "obs"},
		"before the config":    {"msgs", "msgs/1.blk", "obs"},
		"before the checksum":  {"msgs", "msgs/1.blk", "obs", "meta.inf"},
		"within the checksum":  {"msgs", "msgs/1.blk", "obs", "meta.inf", "meta.sum.tmp"},
		"with a leftover test": {"msgs", "obs", "_test_12345"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filled(t)
			b := openOn(t, dir)
			declare(t, b, bus.StreamConfig{Name: "NEW", MaxAge: time.Hour})
			folder := filepath.Join(streamsOf(dir), "NEW")
			must(t, os.WriteFile(filepath.Join(folder, "meta.sum.tmp"), []byte("0"), 0o600))
			must(t, os.WriteFile(filepath.Join(folder, "_test_12345"), nil, 0o600))
			made := filepath.Join(t.TempDir(), "made") // the server adds an index at its end
			must(t, os.CopyFS(made, os.DirFS(folder)))
			must(t, b.Close())
			must(t, os.RemoveAll(folder))
			must(t, os.Mkdir(folder, 0o700))
			for path := range snapshot(t, made) {
				rel, err := filepath.Rel(made, path)
				must(t, err)
				if !slices.Contains(keep, filepath.ToSlash(rel)) {
					continue
				}
				must(t, os.MkdirAll(filepath.Dir(filepath.Join(folder, rel)), 0o700))
				if info, err := os.Stat(path); err == nil && info.IsDir() {
					must(t, os.MkdirAll(filepath.Join(folder, rel), 0o700))
					continue
				}
				data, err := os.ReadFile(path)
				must(t, err)
				must(t, os.WriteFile(filepath.Join(folder, rel), data, 0o600))
			}
			mended(t, dir, func(b *bus.Bus) {
				_, err := b.LookupStream(t.Context(), "NEW")
				isError(t, err, bus.ErrStreamNotFound)
				storeRange(t, declare(t, b, bus.StreamConfig{Name: "NEW"}), "NEW", 0, 2)
			}, "unfinished", "stream=NEW", "set aside", filepath.Join(dir, "set-aside", "NEW."))
			aside, err := os.ReadDir(filepath.Join(dir, "set-aside"))
			must(t, err)
			if len(aside) != 1 || !strings.HasPrefix(aside[0].Name(), "NEW.") {
				t.Errorf("set aside are %v", aside)
			}
			mended(t, dir, func(b *bus.Bus) { mustHold(t, b, "NEW", 1, 2) })
			mustBeUnharmed(t, dir)
		})
	}
}

// A stream whose removal had begun is gone when the bus has started.
func TestStoreEndsRemovals(t *testing.T) {
	t.Parallel()
	dir := filled(t)
	gone := filepath.Join(streamsOf(dir), ".GONE")
	must(t, os.CopyFS(gone, os.DirFS(filepath.Join(streamsOf(dir), "S"))))
	must(t, os.Remove(filepath.Join(gone, "meta.inf")))
	mended(t, dir, func(*bus.Bus) {
		if _, err := os.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is still there: %v", err)
		}
	}, "unfinished", "stream=GONE", "removal had begun")
	mustBeUnharmed(t, dir)
}

// The server of a process that was killed at its very start had left an empty file, which the next
// one takes for an account.
func TestStoreRemovesProbesOfTheServer(t *testing.T) {
	t.Parallel()
	dir := filled(t)
	must(t, os.WriteFile(filepath.Join(dir, "data", "jetstream", "_test_4882186"), nil, 0o600))
	mustBeUnharmed(t, dir)
}

// A change of a stream that was interrupted between the server's two files is
// finished: the new configuration holds, and the messages are there.
func TestStoreEndsChanges(t *testing.T) {
	t.Parallel()
	dir := filled(t)
	config, sum := filepath.Join(streamsOf(dir), "S", "meta.inf"), filepath.Join(streamsOf(dir), "S", "meta.sum")
	old, err := os.ReadFile(sum)
	must(t, err)
	b := openOn(t, dir)
	declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"S", "S.more"}})
	must(t, b.Close())
	fresh, err := os.ReadFile(sum)
	must(t, err)
	must(t, os.WriteFile(sum, old, 0o600))
	before := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(sum, before, before))

	mended(t, dir, func(b *bus.Bus) {
		if got := streamInfo(t, b, "S").Config.Subjects; !slices.Equal(got, []string{"S", "S.more"}) {
			t.Errorf("it stores %q", got)
		}
	}, "unfinished", "stream=S", "was being changed", sum)
	if now, err := os.ReadFile(sum); err != nil || string(now) != string(fresh) {
		t.Errorf("the checksum is %s, %v; the server wrote %s", now, err, fresh)
	}

	// The same with a configuration that is not one the server writes.
	data, err := os.ReadFile(config)
	must(t, err)
	for name, change := range map[string]func(map[string]any){
		"an unknown field": func(m map[string]any) { m["colour"] = "red" },
		"another stream":   func(m map[string]any) { m["name"] = "T" },
		"never created":    func(m map[string]any) { delete(m, "Created") },
	} {
		t.Run(name, func(t *testing.T) {
			var fields map[string]any
			must(t, json.Unmarshal(data, &fields))
			change(fields)
			changed, err := json.Marshal(fields)
			must(t, err)
			must(t, os.WriteFile(config, changed, 0o600))
			before := snapshot(t, filepath.Join(streamsOf(dir), "S"))
			refusedOn(t, dir, "'$G > S'", "restore the directory from a backup")
			if after := snapshot(t, filepath.Join(streamsOf(dir), "S")); !maps.Equal(before, after) {
				t.Errorf("it was changed from %q to %q", before, after)
			}
		})
	}
	must(t, os.WriteFile(config, data, 0o600))
	mustBeUnharmed(t, dir)
}

// What is wrong with a store directory can be told from the error without its text.
func TestStoreProblems(t *testing.T) {
	t.Parallel()
	write := func(t *testing.T, dir, name, text string) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	for want, spoil := range map[bus.StoreProblem]func(t *testing.T, dir string){
		bus.StoreLocked: func(t *testing.T, dir string) { openOn(t, dir) },
		bus.StoreForeign: func(t *testing.T, dir string) {
			write(t, dir, "photos/1.jpg", "")
			must(t, os.RemoveAll(filepath.Join(dir, "omnibus.json")))
		},
		bus.StoreNewer:   func(t *testing.T, dir string) { write(t, dir, "omnibus.json", `{"format": 4}`) },
		bus.StoreDamaged: func(t *testing.T, dir string) { write(t, dir, "omnibus.json", `{"form`) },
		bus.StoreUnusable: func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir))
			write(t, filepath.Dir(dir), filepath.Base(dir), "")
		},
	} {
		t.Run(string(want), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "store")
			must(t, ownBus(t, bus.WithStoreDir(dir)).Close())
			spoil(t, dir)
			e := asError[*bus.StoreError](t, refusedOn(t, dir))
			if e.Problem != want || e.Dir != dir {
				t.Errorf("got %s of %s: %v", e.Problem, e.Dir, e)
			}
			if want == bus.StoreLocked {
				hasText(t, e, "in this process already")
				if e.PID != os.Getpid() {
					t.Errorf("got %+v", e)
				}
			}
		})
	}
	dir := filled(t)
	must(t, os.Remove(filepath.Join(streamsOf(dir), "S", "meta.inf")))
	if e := asError[*bus.StoreError](t, refusedOn(t, dir)); e.Problem != bus.StoreDamaged {
		t.Errorf("a stream without its configuration is %s", e.Problem)
	}
}

// The health of a bus is not bad for a moment whenever a stream is made or removed.
func TestHealthWhileStreamsComeAndGo(t *testing.T) {
	t.Parallel()
	b := openOn(t, t.TempDir())
	declare(t, b, bus.StreamConfig{Name: "STAYS"}) // with the last stream the server removes the folder of all, at some time
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprint("N", n)
			storeRange(t, declare(t, b, bus.StreamConfig{Name: name}), bus.Subject[int](name), 0, 1)
			must(t, b.JetStream().DeleteStream(t.Context(), name))
		}
	}()
	for range 2000 {
		if r := b.Health(t.Context()); r.Status == health.Failed {
			t.Errorf("got %+v", r)
			break
		}
	}
	close(stop)
	wait(t, ended, "the streams")
}
