package storedir_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/omnibus-go/bus/internal/storedir"
)

// TestNotPermitted opens directories that the user may not use, also where the
// tests run as root.
func TestNotPermitted(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	for path, mode := range map[string]os.FileMode{"readable": 0o555, "hidden": 0o111} {
		if err := os.Mkdir(filepath.Join(parent, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	// Lets a user without rights through to parent: TempDir makes two levels.
	for _, path := range []string{parent, filepath.Dir(parent)} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		dropRights(t)
		for path, op := range map[string]string{"readable": "lock", "readable/new": "create", "hidden": "read", "hidden/new": "create"} {
			_, err := storedir.Open(filepath.Join(parent, path))
			var access *storedir.AccessError
			if !errors.As(err, &access) || access.Op != op || !errors.Is(err, syscall.EACCES) {
				t.Errorf("%s: %T %v, want Op %q", path, err, err, op)
			}
		}
	}()
	<-done
}

// dropRights makes this goroutine's thread access files as nobody, if it is
// root. The thread is never unlocked, so it ends with the goroutine.
func dropRights(t *testing.T) {
	if os.Geteuid() != 0 {
		return
	}
	runtime.LockOSThread()
	if err := unix.Setfsuid(65534); err != nil {
		t.Error(err)
	}
}
