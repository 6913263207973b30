package storedir_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/highwayhash"

	"github.com/omnibus-go/bus/internal/storedir"
)

// message is a block with a message in it, as far as its size tells.
var message = strings.Repeat("m", 31)

// streamFiles is what a folder of the stream S holds; a name that ends with a slash
// is a folder.
type streamFiles map[string]string

// sumOf is the checksum that the server gives the configuration of S.
func sumOf(t *testing.T, config string) string {
	t.Helper()
	key := sha256.Sum256([]byte("S"))
	h, err := highwayhash.New64(key[:])
	if err != nil {
		t.Fatal(err)
	}
	_, _ = h.Write([]byte(config))
	return hex.EncodeToString(h.Sum(nil))
}

// withStream returns an open directory with a folder of the given name, whose files
// are a minute older the further behind they stand in the alphabet.
func withStream(t *testing.T, name string, files streamFiles) (d *storedir.Dir, folder string) {
	t.Helper()
	dir, _ := newDir(t)
	folder = filepath.Join(dir, "data", "jetstream", "$G", "streams", name)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	written := time.Now()
	for _, file := range slices.Backward(sortedKeys(files)) {
		path := filepath.Join(folder, file)
		if strings.HasSuffix(file, "/") {
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		write(t, path, files[file])
		written = written.Add(time.Minute)
		if err := os.Chtimes(path, written, written); err != nil {
			t.Fatal(err)
		}
	}
	return open(t, dir), folder
}

func sortedKeys(m streamFiles) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// content is what lies under a folder.
func content(t *testing.T, folder string) streamFiles {
	t.Helper()
	all := streamFiles{}
	err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == folder {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil || e.IsDir() {
			all[name+"/"] = ""
			return err
		}
		data, err := os.ReadFile(path)
		all[name] = string(data)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return all
}

func same(a, b streamFiles) bool {
	return slices.EqualFunc(sortedKeys(a), sortedKeys(b), func(k, l string) bool { return k == l && a[k] == b[l] })
}

// anyConfig takes whatever begins like JSON for a configuration.
func anyConfig(name string, config []byte) error {
	if name != "S" || !strings.HasPrefix(string(config), "{") {
		return errors.New("not a configuration of " + name)
	}
	return nil
}

// A folder in which nobody can have stored anything is set aside as it is.
func TestRepairMovesAsideUnfinishedStreams(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]streamFiles{
		"an empty folder":           {},
		"no block yet":              {"msgs/": "", "obs/": "", "_test_123": ""},
		"no configuration yet":      {"msgs/1.blk": "", "obs/": ""},
		"half a configuration":      {"msgs/1.blk": "", "obs/": "", "meta.inf.tmp": `{"na`},
		"no checksum yet":           {"msgs/1.blk": "", "obs/": "", "meta.inf": "{}"},
		"half a checksum":           {"msgs/1.blk": "", "obs/": "", "meta.inf": "{}", "meta.sum.tmp": "012"},
		"an empty checksum":         {"msgs/1.blk": "", "obs/": "", "meta.inf": "{}", "meta.sum": ""},
		"a first sequence was set":  {"msgs/2.blk": message[1:], "obs/": ""},
		"encrypted, before the sum": {"msgs/1.blk": "", "msgs/1.key": "key", "obs/": "", "meta.key": "key", "meta.inf": "\x00\x01"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, folder := withStream(t, "S", files)
			before := content(t, folder)
			if names, err := storedir.Streams(d.Path()); err != nil || len(names) != 0 {
				t.Errorf("Streams = %q, %v", names, err)
			}
			done, err := d.Repair(anyConfig)
			if err != nil || len(done) != 1 || done[0].Stream != "S" || !strings.Contains(done[0].What, "set aside") {
				t.Fatalf("Repair = %+v, %v", done, err)
			}
			if filepath.Dir(done[0].Path) != filepath.Join(d.Path(), "set-aside") || !same(content(t, done[0].Path), before) {
				t.Errorf("%s holds %q, want %q", done[0].Path, content(t, done[0].Path), before)
			}
			if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the folder is still there: %v", err)
			}
			if done, err := d.Repair(anyConfig); len(done) != 0 || err != nil {
				t.Errorf("a second time: %+v, %v", done, err)
			}
		})
	}
}

// A change that was interrupted gets its checksum.
func TestRepairFinishesAChange(t *testing.T) {
	t.Parallel()
	now := `{"name":"S","max_age":2}`
	d, folder := withStream(t, "S", streamFiles{"meta.inf": now, "meta.sum": sumOf(t, `{"name":"S","max_age":123}`), "meta.sum.tmp": "01", "msgs/1.blk": message})
	done, err := d.Repair(anyConfig)
	if err != nil || len(done) != 1 || done[0].Stream != "S" || !strings.Contains(done[0].What, "was being changed") {
		t.Fatalf("Repair = %+v, %v", done, err)
	}
	if want := (streamFiles{"meta.inf": now, "meta.sum": sumOf(t, now), "msgs/": "", "msgs/1.blk": message}); !same(content(t, folder), want) {
		t.Errorf("it holds %q, want %q", content(t, folder), want)
	}
}

// What may be damage is left alone, for the server to refuse.
func TestRepairLeavesDamageAlone(t *testing.T) {
	t.Parallel()
	config := `{"name":"S","max_age":2}`
	flipped := strings.Replace(config, "2", "3", 1) // one bit
	sum, other := sumOf(t, config), sumOf(t, `{"name":"S","max_age":123}`)
	for name, files := range map[string]streamFiles{
		"a whole stream":                   {"meta.inf": config, "meta.sum": sum, "msgs/1.blk": message, "obs/c/meta.inf": "{}"},
		"a whole stream without messages":  {"meta.inf": config, "meta.sum": sum, "msgs/1.blk": "", "obs/": ""},
		"the configuration is gone":        {"meta.sum": sum, "msgs/1.blk": message},
		"both are gone, messages not":      {"msgs/1.blk": message},
		"both are gone, consumers not":     {"msgs/1.blk": "", "obs/c/meta.inf": "{}"},
		"both are gone, the index not":     {"msgs/1.blk": "", "msgs/index.db": "x"},
		"both are gone, unknown data":      {"msgs/1.blk": "", "batches/x": "x"},
		"a purge was under way":            {"msgs/": "", "__msgs__/1.blk": message},
		"the checksum is gone":             {"meta.inf": config, "msgs/1.blk": message},
		"the checksum is empty":            {"meta.inf": config, "meta.sum": "", "msgs/1.blk": message},
		"the checksum is cut off":          {"meta.inf": config, "meta.sum": other[:15], "msgs/1.blk": message},
		"the checksum is of capitals":      {"meta.inf": config, "meta.sum": strings.ToUpper("abcdefabcdefabcd"), "msgs/1.blk": message},
		"the configuration is none":        {"meta.inf": "nonsense", "meta.sum": sum, "msgs/1.blk": message},
		"the configuration is empty":       {"meta.inf": "", "meta.sum": sum, "msgs/1.blk": message},
		"the configuration is of another":  {"meta.inf": `"T"`, "meta.sum": sum, "msgs/1.blk": message},
		"the configuration has a bad bit":  {"meta.inf": flipped, "meta.sum": sum, "msgs/1.blk": message},
		"the configuration is far too big": {"meta.inf": "{" + strings.Repeat(" ", 17<<10), "meta.sum": other, "msgs/1.blk": message},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, folder := withStream(t, "S", files)
			before := content(t, folder)
			if names, err := storedir.Streams(d.Path()); err != nil || !slices.Equal(names, []string{"S"}) {
				t.Errorf("Streams = %q, %v", names, err)
			}
			if done, err := d.Repair(anyConfig); len(done) != 0 || err != nil {
				t.Errorf("Repair = %+v, %v", done, err)
			}
			if after := content(t, folder); !same(before, after) {
				t.Errorf("it held %q and holds %q", before, after)
			}
			if _, err := os.Stat(filepath.Join(d.Path(), "set-aside")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("set-aside: %v", err)
			}
		})
	}
	t.Run("the checksum was written later", func(t *testing.T) {
		t.Parallel()
		d, folder := withStream(t, "S", streamFiles{"meta.inf": config, "meta.sum": other, "msgs/1.blk": message})
		later := time.Now().Add(time.Hour)
		if err := os.Chtimes(filepath.Join(folder, "meta.sum"), later, later); err != nil {
			t.Fatal(err)
		}
		if done, err := d.Repair(anyConfig); len(done) != 0 || err != nil {
			t.Errorf("Repair = %+v, %v", done, err)
		}
	})
}

// A stream that the server marked as removed is removed.
func TestRepairFinishesARemoval(t *testing.T) {
	t.Parallel()
	d, folder := withStream(t, ".S", streamFiles{"meta.sum": "x", "msgs/1.blk": message, "obs/c/meta.inf": "{}"})
	if names, err := storedir.Streams(d.Path()); err != nil || len(names) != 0 {
		t.Errorf("Streams = %q, %v", names, err)
	}
	done, err := d.Repair(anyConfig)
	if err != nil || len(done) != 1 || done[0].Stream != "S" || !strings.Contains(done[0].What, "removal had begun") {
		t.Fatalf("Repair = %+v, %v", done, err)
	}
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// The empty file of a server that was killed while it tried the directory is removed. What else has
// such a name stays.
func TestRepairRemovesProbes(t *testing.T) {
	t.Parallel()
	d, folder := withStream(t, "S", streamFiles{"meta.inf": "{}", "meta.sum": sumOf(t, "{}"), "msgs/1.blk": message})
	accounts := filepath.Dir(filepath.Dir(filepath.Dir(folder)))
	write(t, filepath.Join(accounts, "_test_4882186"), "")
	write(t, filepath.Join(accounts, "_test_1"), "x")
	if err := os.Mkdir(filepath.Join(accounts, "_test_2"), 0o700); err != nil {
		t.Fatal(err)
	}
	if done, err := d.Repair(anyConfig); len(done) != 0 || err != nil {
		t.Fatalf("Repair = %+v, %v", done, err)
	}
	for name, stays := range map[string]bool{"_test_4882186": false, "_test_1": true, "_test_2": true, "$G": true} {
		if _, err := os.Stat(filepath.Join(accounts, name)); (err == nil) != stays {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without data there is nothing to do; what cannot be read is an error.
func TestRepairWithoutStreams(t *testing.T) {
	t.Parallel()
	dir, _ := newDir(t)
	d := open(t, dir)
	for range 2 {
		if done, err := d.Repair(anyConfig); len(done) != 0 || err != nil {
			t.Errorf("Repair = %+v, %v", done, err)
		}
		if names, err := storedir.Streams(dir); len(names) != 0 || err != nil {
			t.Errorf("Streams = %q, %v", names, err)
		}
		write(t, filepath.Join(dir, "data", "jetstream", "$G", "streams", "README"), "no stream")
	}
	if names, err := storedir.Streams(filepath.Join(dir, "absent")); len(names) != 0 || err != nil {
		t.Errorf("Streams of an absent directory = %q, %v", names, err)
	}
	write(t, filepath.Join(dir, "data", "jetstream", "X", "streams"), "a file")
	var access *storedir.AccessError
	if _, err := d.Repair(anyConfig); !errors.As(err, &access) {
		t.Errorf("Repair = %v", err)
	}
	if _, err := storedir.Streams(dir); !errors.As(err, &access) || access.Dir != dir {
		t.Errorf("Streams = %v", err)
	}
}

// Two streams of one name, at different times, are both kept.
func TestRepairMovesAsideTwice(t *testing.T) {
	t.Parallel()
	d, folder := withStream(t, "S", streamFiles{"msgs/": ""})
	for range 2 {
		if _, err := d.Repair(anyConfig); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if kept := names(t, filepath.Join(d.Path(), "set-aside")); len(kept) != 2 {
		t.Errorf("kept %q", kept)
	}
}
