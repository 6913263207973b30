package storedir_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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
	if id.Format != 1 || id.ID == "" || !name.MatchString(id.ServerName) || !name.MatchString(id.Domain) || id.Created.IsZero() {
		t.Errorf("Identity = %+v", id)
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
