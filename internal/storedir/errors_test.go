package storedir_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/omnibus-go/bus/internal/storedir"
)

func TestNoDirectory(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	file := filepath.Join(parent, "file")
	write(t, file, "")
	for _, path := range []string{"", file, filepath.Join(file, "bus"), filepath.Join(parent, "a\x00b")} {
		err := refused[*storedir.AccessError](t, path)
		if err.Dir != path || err.Op == "" || err.Err == nil {
			t.Errorf("%q: error = %+v", path, *err)
		}
	}
}

func TestEntriesOfTheWrongKind(t *testing.T) {
	t.Parallel()
	tests := map[string]func(t *testing.T, dir string){
		"data is a file":          func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "data"), false) },
		"identity is a directory": func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "omnibus.json"), true) },
		"temp is a directory":     func(t *testing.T, dir string) { write(t, filepath.Join(dir, "omnibus.json.tmp", "x"), "") },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := newDir(t)
			spoil(t, dir)
			refused[*storedir.AccessError](t, dir)
		})
	}
}

func replace(t *testing.T, path string, byDir bool) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if !byDir {
		write(t, path, "")
		return
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestAdvice(t *testing.T) {
	t.Parallel()
	for errno, want := range map[syscall.Errno]string{
		syscall.EACCES:  "the user of this process may read and write",
		syscall.ENOTDIR: "a part of the path is a file",
		syscall.ENOSPC:  "the disk is full",
		syscall.ENOLCK:  "cannot lock files",
		syscall.ENOSYS:  "cannot lock files",
	} {
		err := &storedir.AccessError{Dir: "/srv/bus", Op: "lock", Err: &os.PathError{Op: "open", Path: "/srv/bus/LOCK", Err: errno}}
		if text := err.Error(); !strings.Contains(text, want) || !strings.Contains(text, "/srv/bus") {
			t.Errorf("%v: %s", errno, text)
		}
	}
}
