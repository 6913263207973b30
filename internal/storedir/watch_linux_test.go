package storedir_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/omnibus-go/bus/internal/storedir"
)

// A directory that is mounted over is lost, and so is one whose file system became read-only.
func TestCheckNoticesMounts(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		flags uintptr // of a mount over the directory
		want  string
	}{
		"mounted over": {0, "the directory was replaced"},
		"read-only":    {unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY, "its file system became read-only while it was open; nothing is stored any more: close the bus, mount it writable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			done := make(chan string)
			go func() { defer close(done); checkMount(t, dir, tc.flags, tc.want, done) }()
			if skipped := <-done; skipped != "" {
				t.Skip("SKIPPED: " + skipped)
			}
		})
	}
}

// checkMount makes the mounts in a name space of its thread, which ends with the goroutine. It
// sends to skipped why it can make none.
func checkMount(t *testing.T, dir string, flags uintptr, want string, skipped chan<- string) {
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil {
		err = unix.Mount("none", dir, "tmpfs", 0, "")
	}
	if err != nil {
		skipped <- "this user cannot mount: " + err.Error()
		return
	}
	if err := os.Mkdir(filepath.Join(dir, "store"), 0o700); err != nil {
		t.Error(err)
		return
	}
	d, err := storedir.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Error(err)
		return
	}
	if err := d.Check(); err != nil {
		t.Errorf("before: %v", err)
	}
	mountPoint := dir
	if flags == 0 {
		mountPoint = d.Path()
	}
	if err := unix.Mount("none", mountPoint, "tmpfs", flags, ""); err != nil {
		t.Error(err)
	}
	if err := d.Check(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
