package storedir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/storedir"
)

// A move goes from none to begun to moved, or back. Message IDs are kept with it. What a crash
// leaves of it is found by the next start.
func TestMove(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	d := open(t, dir)
	m := storedir.Move{ID: "abc", Target: "nats://a:4222", Streams: []string{"S"}, At: time.Now().UTC().Truncate(time.Second)}
	begun := func(want bool) {
		t.Helper()
		if got, ok, err := d.Begun(); err != nil || ok != want || ok && got.ID != m.ID {
			t.Fatalf("Begun = %+v, %v, %v", got, ok, err)
		}
	}
	kept := func(want string) {
		t.Helper()
		if got, err := storedir.KeptIDs(dir, 10); err != nil || string(got) != want {
			t.Fatalf("KeptIDs = %q, %v", got, err)
		}
	}
	for range 2 {
		begun(false)
		kept("")
		succeed(t, d.BeginMove(m))
		succeed(t, d.KeepIDs([]byte("ids")))
		begun(true)
		kept("ids")
		succeed(t, d.EndMove())
		succeed(t, d.EndMove())
	}
	succeed(t, d.BeginMove(m))
	succeed(t, d.KeepIDs([]byte("more than ten")))
	if _, err := storedir.KeptIDs(dir, 10); err == nil {
		t.Error("a file above the limit is read")
	}
	if _, moved := storedir.MovedTo(dir); moved {
		t.Error("it is moved before the commit")
	}
	succeed(t, d.CommitMove(m))
	succeed(t, d.Close())
	if got, moved := storedir.MovedTo(dir); !moved || got.ID != m.ID || got.Target != m.Target {
		t.Errorf("MovedTo = %+v, %v", got, moved)
	}
	_, err := storedir.Open(dir)
	if moved, ok := errors.AsType[*storedir.MovedError](err); !ok || moved.Move.ID != m.ID {
		t.Errorf("Open = %v", err)
	}
}

// When a file of a move cannot be written, the directory is as before, and the error says so.
func TestMoveThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	m := storedir.Move{ID: "abc", Target: "nats://a:4222"}
	for file, do := range map[string]func(*storedir.Dir) error{
		"switch.json":  func(d *storedir.Dir) error { return d.BeginMove(m) },
		"switch.ids":   func(d *storedir.Dir) error { return d.KeepIDs([]byte("ids")) },
		"omnibus.json": func(d *storedir.Dir) error { return d.CommitMove(m) },
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "store")
			d := open(t, dir)
			blocked := filepath.Join(dir, file+".tmp", "in the way")
			succeed(t, os.MkdirAll(blocked, 0o700))
			err := do(d)
			access, ok := errors.AsType[*storedir.AccessError](err)
			if !ok || access.Op != "write "+file || errors.Is(err, storedir.ErrUndecided) {
				t.Errorf("got %v", err)
			}
			succeed(t, os.RemoveAll(filepath.Dir(blocked)))
			succeed(t, d.Close())
			if _, moved := storedir.MovedTo(dir); moved {
				t.Error("it is moved")
			}
			succeed(t, open(t, dir).Close())
		})
	}
}

// A replacement of which nobody knows whether it is on the disk is undone. If that fails, too, the
// error says that nobody knows.
func TestMoveUndecided(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	d := open(t, dir)
	identity := filepath.Join(dir, "omnibus.json")
	succeed(t, os.Rename(identity, identity+".away"))
	succeed(t, os.MkdirAll(filepath.Join(identity, "in the way"), 0o700)) // the rename fails, also that of the old one
	err := d.CommitMove(storedir.Move{ID: "abc", Target: "nats://a:4222"})
	if !errors.Is(err, storedir.ErrUndecided) || !strings.Contains(err.Error(), "where a restart would look") {
		t.Errorf("got %v", err)
	}
	succeed(t, d.Close())
}

// The same on the way home: the folder stays, since the identity may name it.
func TestHomeUndecided(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	d, err := storedir.OpenHome(dir, "x1")
	succeed(t, err)
	identity := filepath.Join(dir, "omnibus.json")
	succeed(t, os.Rename(identity, identity+".away"))
	succeed(t, os.MkdirAll(filepath.Join(identity, "in the way"), 0o700))
	if err := d.CommitHome(storedir.Move{ID: "x1", Target: "nats://a:4222", Home: true}); !errors.Is(err, storedir.ErrUndecided) {
		t.Errorf("got %v", err)
	}
	succeed(t, d.Close())
	if !exists(filepath.Join(dir, "home-x1")) {
		t.Error("the folder is gone")
	}
}

func succeed(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
