package storedir_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/storedir"
)

func TestLockedInThisProcess(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir := filepath.Join(parent, "bus")
	d := open(t, dir)
	link := filepath.Join(parent, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Logf("without the symbolic link, which this system refuses: %v", err)
		link = dir
	}
	for _, path := range []string{dir, dir + "/", filepath.Join(dir, "data") + "/..", link, relative(t, dir)} {
		err := refused[*storedir.LockedError](t, path)
		owner := err.Owner
		host, _ := os.Hostname()
		if owner.PID != os.Getpid() || owner.Host != host || owner.Program == "" || owner.Bus != d.Identity().ServerName || time.Since(owner.Since) > time.Hour {
			t.Errorf("%s: owner = %+v", path, owner)
		}
		if !strings.Contains(err.Error(), "open in this process already") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func relative(t *testing.T, path string) string {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if short, err := filepath.Rel(here, path); err == nil {
		return short
	}
	return path // another drive
}

func TestLockedByAnotherProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bus")
	c := startChild(t, dir)
	err := refused[*storedir.LockedError](t, dir)
	if err.Owner.PID != c.cmd.Process.Pid || err.Owner.Bus != c.serverName || err.Dir != dir {
		t.Errorf("error = %+v, child %d, %s", *err, c.cmd.Process.Pid, c.serverName)
	}
	if !strings.Contains(err.Error(), err.Owner.Host) || !strings.Contains(err.Error(), err.Owner.Program) {
		t.Errorf("the text does not name the owner: %v", err)
	}
	c.stop(t)
	if got := open(t, dir).Identity().ServerName; got != c.serverName {
		t.Errorf("server name %q, the child had %q", got, c.serverName)
	}
}

func TestKilledOwner(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bus")
	c := startChild(t, dir)
	c.kill(t)
	if _, err := os.Stat(filepath.Join(dir, "OWNER")); err != nil {
		t.Fatalf("the test shows nothing: %v", err)
	}
	d := open(t, dir)
	if d.Identity().ServerName != c.serverName {
		t.Errorf("server name %q, the child had %q", d.Identity().ServerName, c.serverName)
	}
	if err := refused[*storedir.LockedError](t, dir); err.Owner.PID != os.Getpid() {
		t.Errorf("the stale owner is still there: %+v", err.Owner)
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
