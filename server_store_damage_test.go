package bus_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/omnibus-go/bus"
)

// mend copies what is in the whole directory over a broken one.
func mend(t testing.TB, whole, dir string) {
	t.Helper()
	files := snapshot(t, whole)
	for _, path := range slices.Sorted(maps.Keys(files)) { // folders before what is in them
		rel, err := filepath.Rel(whole, path)
		must(t, err)
		to := filepath.Join(dir, rel)
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			if file, err := os.Stat(to); err == nil && !file.IsDir() {
				must(t, os.Remove(to))
			}
			must(t, os.MkdirAll(to, 0o700))
			continue
		}
		must(t, os.WriteFile(to, []byte(files[path]), 0o600))
	}
}

// A stream that the server cannot read is not silently absent: the bus does not
// start, says which stream it is and what to do, and changes nothing.
func TestStoreWithADamagedStream(t *testing.T) {
	t.Parallel()
	write := func(name, text string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)) }
	}
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, name))) }
	}
	cut := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			info, err := os.Stat(filepath.Join(dir, name))
			must(t, err)
			must(t, os.Truncate(filepath.Join(dir, name), info.Size()/2))
		}
	}
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, streamDir string)
	}{
		{"meta.inf of nonsense", write("meta.inf", "nonsense")},
		{"meta.inf empty", write("meta.inf", "")},
		{"meta.inf cut off", cut("meta.inf")},
		{"meta.inf gone", remove("meta.inf")},
		{"meta.sum of nonsense", write("meta.sum", "0123456789abcdef")},
		{"meta.sum empty", write("meta.sum", "")},
		{"meta.sum gone", remove("meta.sum")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := filled(t)
			whole := filepath.Join(t.TempDir(), "copy")
			must(t, os.CopyFS(whole, os.DirFS(dir)))
			streams := filepath.Join(dir, "data", "jetstream", "$G", "streams")
			tc.damage(t, filepath.Join(streams, "S"))
			before := snapshot(t, filepath.Join(streams, "S"))
			for range 2 {
				err := refusedOn(t, dir, "'$G > S'", "restore the directory from a backup", "move the damaged stream out of "+filepath.Join(dir, "data"))
				asError[*bus.StartError](t, err)
			}
			if after := snapshot(t, filepath.Join(streams, "S")); !maps.Equal(before, after) {
				t.Errorf("it was changed from %q to %q", before, after)
			}
			// The two ways that the error names.
			out := filepath.Join(t.TempDir(), "S")
			must(t, os.Rename(filepath.Join(streams, "S"), out))
			b := openOn(t, dir)
			mustHold(t, b, "T", 1, 1)
			_, err := b.LookupStream(t.Context(), "S")
			isError(t, err, bus.ErrStreamNotFound)
			must(t, b.Close())
			mend(t, whole, dir)
			mustBeUnharmed(t, dir)
		})
	}
}

// A consumer that the server cannot read is made again by Consume and loses
// nothing: it goes on where it was, or begins anew where that is not known. A
// process that was killed leaves such consumers too, so that is no reason not to
// start.
func TestStoreWithADamagedConsumer(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]int{"meta.inf": 50, "meta.sum": 50, "o.dat": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filled(t)
			must(t, os.Remove(filepath.Join(dir, "data", "jetstream", "$G", "streams", "S", "obs", "c", name)))
			var log lockedBuffer
			b := openOn(t, dir, bus.WithLogger(hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Warn})))
			if told := strings.Contains(log.String(), filepath.Join("S", "obs", "c")); !told && name != "o.dat" {
				t.Errorf("the log does not name it: %s", log.String())
			}
			st, err := b.LookupStream(t.Context(), "S")
			must(t, err)
			h, got := collect[int](200)
			con := consume(t, st, "c", "S", h)
			for want := first; want < 100; want++ {
				if v := receive(t, got); v != want {
					t.Fatalf("got %d, want %d", v, want)
				}
			}
			must(t, con.Drain(t.Context()))
			mustBeDone(t, b, "S", "c")
			must(t, b.Close())
		})
	}
}

// A process that was killed while it made or removed a stream leaves a folder
// that holds no stream; the others must not suffer from that.
func TestStoreWithAHalfMadeStream(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		make func(t *testing.T, streams string)
	}{
		{"that was about to be made", func(t *testing.T, streams string) {
			must(t, os.MkdirAll(filepath.Join(streams, "NEW", "msgs"), 0o700))
			must(t, os.MkdirAll(filepath.Join(streams, "NEW", "obs"), 0o700))
		}},
		{"that was about to be removed", func(t *testing.T, streams string) {
			gone := filepath.Join(streams, ".GONE", "msgs")
			must(t, os.MkdirAll(gone, 0o700))
			for i := range 3000 { // so many that their removal takes a while
				must(t, os.WriteFile(filepath.Join(gone, fmt.Sprintf("%d.blk", i)), nil, 0o600))
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := filled(t)
			tc.make(t, filepath.Join(dir, "data", "jetstream", "$G", "streams"))
			mustBeUnharmed(t, dir)
		})
	}
}
