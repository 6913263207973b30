//go:build !windows

package storedir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/storedir"
)

// Nobody waits for a FIFO in the place of a file.
func TestOpenRefusesAFIFO(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"LOCK", "OWNER", "omnibus.json", "switch.json", "data/x", "data/jetstream/$G/streams/S/msgs/1.blk"} {
		dir, _ := newDir(t)
		d, err := storedir.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(path)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Skipf("SKIPPED: no FIFO can be made: %v", err)
		}
		done := make(chan error, 1)
		go func() {
			storedir.MovedTo(dir)
			_, err := storedir.Open(dir)
			done <- err
		}()
		select {
		case err := <-done:
			if _, ok := errors.AsType[*storedir.AccessError](err); !ok || !strings.Contains(err.Error(), name+": it is a FIFO") {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: Open waits", name)
		}
	}
}

// Another container may have the same host name and process ID.
func TestOwnerOfAnotherContainer(t *testing.T) {
	t.Parallel()
	dir, _ := newDir(t)
	open(t, dir)
	file := filepath.Join(dir, "OWNER")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := storedir.Open(dir); err == nil || !strings.Contains(err.Error(), "in this process already") {
		t.Errorf("got %v", err)
	}
	other := strings.Replace(string(raw), `"process":"`, `"process":"X`, 1)
	if err := os.WriteFile(file, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := storedir.Open(dir); err == nil || strings.Contains(err.Error(), "in this process already") {
		t.Errorf("got %v", err)
	}
}

// A link counts as what it leads to.
func TestOpenLooksBehindLinks(t *testing.T) {
	t.Parallel()
	for target, ok := range map[string]bool{"/dev/null": false, "/no/such/file": true, os.TempDir(): true} {
		dir, _ := newDir(t)
		if err := os.Symlink(target, filepath.Join(dir, "data", "link")); err != nil {
			t.Skipf("SKIPPED: no link can be made: %v", err)
		}
		d, err := storedir.Open(dir)
		if ok != (err == nil) {
			t.Errorf("%s: %v", target, err)
		}
		if err == nil {
			_ = d.Close()
		}
	}
}
