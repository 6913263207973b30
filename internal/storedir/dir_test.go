package storedir_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/omnibus-go/bus/internal/storedir"
)

// open opens dir until the end of the test.
func open(t *testing.T, dir string) *storedir.Dir {
	t.Helper()
	d, err := storedir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// newDir returns a directory that was opened once and is closed.
func newDir(t *testing.T) (string, storedir.Identity) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bus")
	d, err := storedir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, d.Identity()
}

// refused opens dir, expects an error of type E, and returns it.
func refused[E error](t *testing.T, dir string) E {
	t.Helper()
	d, err := storedir.Open(dir)
	if err == nil {
		t.Fatalf("Open took %s: %+v", dir, d.Identity())
	}
	var typed E
	if !errors.As(err, &typed) {
		t.Fatalf("Open = %T %v, want %T", err, err, typed)
	}
	if !strings.HasPrefix(err.Error(), "bus: ") {
		t.Errorf("the text %q does not start with \"bus: \"", err)
	}
	t.Log(err)
	return typed
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestOpenCreates(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "var", "lib", "bus")
	d := open(t, dir)
	if d.Path() != dir || d.Data() != filepath.Join(dir, "data") || len(d.Warnings) != 0 {
		t.Errorf("Path %q, Data %q, Warnings %q", d.Path(), d.Data(), d.Warnings)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"LOCK", "OWNER", "data", "omnibus.json"}) {
		t.Errorf("it holds %q", got)
	}
	name := regexp.MustCompile(`^bus-[a-z2-7]{10}$`)
	id := d.Identity()
	if id.Format != storedir.Format || id.ID == "" || !name.MatchString(id.ServerName) || !name.MatchString(id.Domain) || id.Created.IsZero() {
		t.Errorf("Identity = %+v", id)
	}
}

func TestIdentityIsStable(t *testing.T) {
	t.Parallel()
	dir, first := newDir(t)
	if _, second := newDir(t); second.ID == first.ID || second.ServerName == first.ServerName || second.Domain == first.Domain {
		t.Errorf("two directories are alike: %+v and %+v", first, second)
	}
	for range 3 {
		d := open(t, dir)
		if d.Identity() != first {
			t.Errorf("Identity = %+v, first %+v", d.Identity(), first)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLeftovers opens what a crash at each step of the first Open leaves, and
// other directories that are as good as empty.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"empty":         {},
		"locked only":   {"LOCK"},
		"half identity": {"LOCK", "omnibus.json.tmp"},
		"dead owner":    {"LOCK", "OWNER"},
		"volume":        {"lost+found/", "LOCK", "OWNER"},
		"desktop":       {".DS_Store"},
	}
	for name, left := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, file := range left {
				if sub, ok := strings.CutSuffix(file, "/"); ok {
					write(t, filepath.Join(dir, sub, "x"), "")
					continue
				}
				write(t, filepath.Join(dir, file), `{"format":`)
			}
			id := open(t, dir).Identity()
			if id.ID == "" || slices.Contains(names(t, dir), "omnibus.json.tmp") {
				t.Errorf("Identity = %+v, it holds %q", id, names(t, dir))
			}
		})
	}
}

func TestCrashAfterIdentity(t *testing.T) {
	t.Parallel()
	dir, id := newDir(t)
	if err := os.Remove(filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "omnibus.json.tmp"), "half")
	d := open(t, dir)
	if d.Identity() != id {
		t.Errorf("Identity = %+v, want %+v", d.Identity(), id)
	}
	if info, err := os.Stat(d.Data()); err != nil || !info.IsDir() {
		t.Errorf("data: %v", err)
	}
}

func TestForeign(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		files []string
		text  string
	}{
		"home":             {[]string{".bashrc", "Documents/a", "Music/b", "c", "d"}, `".bashrc", "Documents", "Music" and 2 more`},
		"nats-server":      {[]string{"jetstream/$G/x"}, "plain nats-server"},
		"identity is gone": {[]string{"LOCK", "data/jetstream/x"}, "restore omnibus.json"},
		"hidden file":      {[]string{".git/HEAD"}, `".git"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, file := range tt.files {
				write(t, filepath.Join(dir, file), "")
			}
			before := names(t, dir)
			err := refused[*storedir.ForeignError](t, dir)
			if err.Dir != dir || len(err.Found) == 0 || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error = %+v: %v", *err, err)
			}
			if after := names(t, dir); !slices.Equal(after, before) {
				t.Errorf("it held %q, now %q", before, after)
			}
		})
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "omnibus.json"), `{"format":2,"id":["another","kind"]}`)
	err := refused[*storedir.FormatError](t, dir)
	if *err != (storedir.FormatError{Dir: dir, Found: 2, Supported: storedir.Format}) {
		t.Errorf("error = %+v", *err)
	}
}

func TestCorrupt(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"empty":        "",
		"cut":          `{"format":1,"id":"a"`,
		"zeros":        "\x00\x00\x00",
		"not object":   `[1]`,
		"no format":    `{"id":"a","server_name":"s","domain":"d"}`,
		"no id":        `{"format":1,"server_name":"s","domain":"d"}`,
		"no name":      `{"format":1,"id":"a","domain":"d"}`,
		"no domain":    `{"format":1,"id":"a","server_name":"s"}`,
		"blank name":   `{"format":1,"id":"a","server_name":"a b","domain":"d"}`,
		"long name":    `{"format":1,"id":"a","server_name":"` + strings.Repeat("x", 256) + `","domain":"d"}`,
		"name control": `{"format":1,"id":"a","server_name":"a\n","domain":"d"}`,
		"bad domain":   `{"format":1,"id":"a","server_name":"s","domain":"a.b"}`,
		"star domain":  `{"format":1,"id":"a","server_name":"s","domain":"*"}`,
		"tail domain":  `{"format":1,"id":"a","server_name":"s","domain":">"}`,
		"wrong types":  `{"format":1,"id":5}`,
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "omnibus.json")
			write(t, file, text)
			err := refused[*storedir.CorruptError](t, dir)
			if err.File != file || errors.Unwrap(err) == nil {
				t.Errorf("error = %+v", *err)
			}
			if after, err := os.ReadFile(file); err != nil || string(after) != text {
				t.Errorf("the file was changed to %q, %v", after, err)
			}
		})
	}
}

func TestUnknownFieldsAreAccepted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "omnibus.json"), `{"format":1,"id":"a","server_name":"s","domain":"d","later":true}`)
	if id := open(t, dir).Identity(); id.ServerName != "s" {
		t.Errorf("Identity = %+v", id)
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if slices.Contains(names(t, dir), "OWNER") {
		t.Error("OWNER is left")
	}
	second := open(t, dir)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if !slices.Contains(names(t, dir), "OWNER") {
		t.Error("a late Close removed the next owner's file")
	}
	refused[*storedir.LockedError](t, dir)
	if second.Identity() != d.Identity() {
		t.Error("the identity changed")
	}
}

func TestCloseAfterDirIsGone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bus")
	d := open(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Skipf("SKIPPED: this system does not remove files in use: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenRace(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "bus")
	var won atomic.Int32
	var wg, tried sync.WaitGroup
	tried.Add(20)
	for range 20 {
		wg.Go(func() {
			d, err := storedir.Open(dir)
			tried.Done()
			if err != nil {
				if _, ok := errors.AsType[*storedir.LockedError](err); !ok {
					t.Error(err)
				}
				return
			}
			won.Add(1)
			tried.Wait() // hold it until all others were refused
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := won.Load(); n != 1 {
		t.Errorf("%d won", n)
	}
}

// TestOpenCloseStress checks that whoever wins sees the same identity and is alone.
func TestOpenCloseStress(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bus")
	var inside atomic.Int32
	var ids sync.Map
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 30 {
				d, err := storedir.Open(dir)
				if _, ok := errors.AsType[*storedir.LockedError](err); ok {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d have it open", n)
				}
				ids.Store(d.Identity(), true)
				if _, err := os.Stat(filepath.Join(dir, "OWNER")); err != nil {
					t.Errorf("the previous owner took this one's file: %v", err)
				}
				inside.Add(-1)
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	count := 0
	ids.Range(func(any, any) bool { count++; return true })
	if count != 1 {
		t.Errorf("%d identities were seen", count)
	}
}
