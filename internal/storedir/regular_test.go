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
	for _, name := range []string{"LOCK", "OWNER", "omnibus.json"} {
		dir, _ := newDir(t)
		d, err := storedir.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		_ = os.Remove(path)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Skipf("SKIPPED: no FIFO can be made: %v", err)
		}
		done := make(chan error, 1)
		go func() { _, err := storedir.Open(dir); done <- err }()
		select {
		case err := <-done:
			if _, ok := errors.AsType[*storedir.AccessError](err); !ok || !strings.Contains(err.Error(), name) {
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
