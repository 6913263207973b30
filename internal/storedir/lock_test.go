package storedir_test

import (
	"os"
	"path/filepath"
	"strings"
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

func TestUnknownOwner(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bus")
	open(t, dir)
	write(t, filepath.Join(dir, "OWNER"), `{"pid":1`)
	err := refused[*storedir.LockedError](t, dir)
	if err.Owner != (storedir.Owner{}) || !strings.Contains(err.Error(), "in use by another process:") {
		t.Errorf("error = %+v: %v", *err, err)
	}
}
