package storedir_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/omnibus-go/bus/internal/storedir"
)

// A way home has a folder of its own. Before the commit nothing but that and the journal has
// changed; after it the directory opens on the new folder, and the old one is gone.
func TestHome(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := filepath.Join(dir, "data", "old")
	d := open(t, dir)
	write(t, old, "")
	succeed(t, d.CommitMove(aMove("away")))
	succeed(t, d.Close())

	d, err := storedir.OpenHome(dir, "x1")
	succeed(t, err)
	journal := aMove("x1")
	journal.Home, journal.Subjects = true, map[string][]string{"S": {"s.>"}}
	succeed(t, d.BeginMove(journal))
	succeed(t, d.Close())
	write(t, filepath.Join(dir, "home-x0", "half"), "") // what a crash leaves
	if m, moved := storedir.MovedTo(dir); !moved || m.ID != "away" {
		t.Errorf("MovedTo = %+v, %v", m, moved)
	}
	if m, unfinished := storedir.UnfinishedHome(dir); !unfinished || m.ID != "x1" || len(m.Subjects["S"]) != 1 {
		t.Errorf("UnfinishedHome = %+v, %v", m, unfinished)
	}
	refused[*storedir.MovedError](t, dir)
	d, err = storedir.OpenHome(dir, "x1")
	succeed(t, err)
	write(t, filepath.Join(d.Data(), "half"), "")
	succeed(t, d.EndMove())
	succeed(t, d.Close())
	if _, unfinished := storedir.UnfinishedHome(dir); unfinished || exists(filepath.Join(dir, "home-x1")) || exists(filepath.Join(dir, "home-x0")) || !exists(old) {
		t.Error("an abandoned way home leaves something, or takes the old data along")
	}

	d, err = storedir.OpenHome(dir, "x2")
	succeed(t, err)
	journal.ID = "x2"
	succeed(t, d.BeginMove(journal))
	succeed(t, d.CommitHome(journal))
	write(t, filepath.Join(d.Data(), "new"), "")
	succeed(t, d.Close()) // before RemoveOld
	if m, moved := storedir.MovedTo(dir); moved {
		t.Errorf("MovedTo = %+v", m)
	}
	d = open(t, dir)
	if _, begun, err := d.Begun(); begun || err != nil {
		t.Errorf("it is not finished: %v", err)
	}
	if m, untold := d.Untold(); !untold || m.ID != "x2" {
		t.Errorf("Untold = %+v, %v", m, untold)
	}
	succeed(t, d.EndMove())
	if m, untold := d.Untold(); untold {
		t.Errorf("Untold = %+v after EndMove", m)
	}
	if id := d.Identity(); id.Format != 3 || id.Home == nil || id.Home.ID != "x2" || id.Home.Subjects != nil || id.Moved != nil {
		t.Errorf("identity = %+v", id)
	}
	if !exists(filepath.Join(d.Data(), "new")) || exists(old) {
		t.Error("the directory opens on other data, or the old ones are there")
	}
	succeed(t, os.RemoveAll(d.Data()))
	_ = d.Close()
	if err := refused[*storedir.AccessError](t, dir); !strings.Contains(err.Error(), "home-x2") {
		t.Errorf("without the folder: %v", err)
	}
	succeed(t, os.Mkdir(filepath.Join(dir, "home-x2"), 0o700))
	d = open(t, dir)
	succeed(t, d.CommitMove(aMove("again")))
	succeed(t, d.Close())
	if id := refused[*storedir.MovedError](t, dir).Move.ID; id != "again" {
		t.Errorf("moved by %s", id)
	}
}

// A directory that has streams, and an ID that is no name of a folder, are refused. A directory
// without streams whose way home was not finished belongs to the other server.
func TestHomeIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	succeed(t, open(t, dir).Close())
	for _, id := range []string{"../x", "a/b", "."} {
		if _, err := storedir.OpenHome(dir, id); !isAccessError(err) {
			t.Errorf("%q: %v", id, err)
		}
	}
	d, err := storedir.OpenHome(dir, "x")
	succeed(t, err)
	journal := aMove("x")
	journal.Home = true
	succeed(t, d.BeginMove(journal))
	succeed(t, d.Close())
	if m, moved := storedir.MovedTo(dir); !moved || m.ID != "x" {
		t.Errorf("MovedTo = %+v, %v", m, moved)
	}
	refused[*storedir.MovedError](t, dir)

	full := t.TempDir()
	succeed(t, open(t, full).Close())
	write(t, filepath.Join(full, "data", "jetstream", "$G", "streams", "S", "meta.sum"), "0123")
	if _, err := storedir.OpenHome(full, "x"); !isAccessError(err) {
		t.Errorf("with streams: %v", err)
	}
}

func isAccessError(err error) bool {
	_, is := errors.AsType[*storedir.AccessError](err)
	return is
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func aMove(id string) storedir.Move {
	return storedir.Move{ID: id, Target: "nats://a:4222", Streams: []string{"S"}}
}

// A journal that could not be read again is not written. One that is damaged is not passed over:
// it may say that the streams are elsewhere.
func TestHomeJournalThatCannotBeRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, err := storedir.OpenHome(dir, "x1")
	succeed(t, err)
	journal := aMove("x1")
	journal.Home, journal.Subjects = true, map[string][]string{"S": {"a." + strings.Repeat("x", 5000)}}
	if err := d.BeginMove(journal); err == nil || !strings.Contains(err.Error(), "4096 bytes") {
		t.Errorf("BeginMove = %v", err)
	}
	if _, begun, err := d.Begun(); begun || err != nil {
		t.Errorf("it was written: %v", err)
	}
	journal.Subjects["S"][0] = "a." + strings.Repeat("x", 300)
	succeed(t, d.BeginMove(journal))
	succeed(t, d.Close())
	if _, unfinished := storedir.UnfinishedHome(dir); !unfinished {
		t.Error("a long subject hides the journal")
	}
	write(t, filepath.Join(dir, "switch.json"), `{"id":"x1","home":tr`)
	refused[*storedir.CorruptError](t, dir)
}

// What is not of a way home stays, and so do the message IDs of the move before it, when it is
// given up.
func TestHomeLeavesWhatIsOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir)
	write(t, filepath.Join(dir, "home-my.backup", "x"), "")
	succeed(t, d.KeepIDs([]byte("ids")))
	succeed(t, d.CommitMove(aMove("away")))
	succeed(t, d.Close())
	d, err := storedir.OpenHome(dir, "x1")
	succeed(t, err)
	journal := aMove("x1")
	journal.Home = true
	succeed(t, d.BeginMove(journal))
	succeed(t, d.EndMove())
	succeed(t, d.Close())
	if ids, err := storedir.KeptIDs(dir, 100); err != nil || string(ids) != "ids" {
		t.Errorf("the message IDs are %q, %v", ids, err)
	}
	if !exists(filepath.Join(dir, "home-my.backup", "x")) {
		t.Error("a folder of somebody else is gone")
	}
}

// A directory whose folder is gone is refused, also by the start after a crash at the commit.
func TestHomeWithoutItsFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, err := storedir.OpenHome(dir, "x1")
	succeed(t, err)
	journal := aMove("x1")
	journal.Home = true
	succeed(t, d.BeginMove(journal))
	succeed(t, d.CommitHome(journal))
	succeed(t, d.BeginMove(journal)) // the crash came before it was removed
	succeed(t, d.Close())
	succeed(t, os.RemoveAll(filepath.Join(dir, "home-x1")))
	for range 2 {
		refused[*storedir.AccessError](t, dir)
	}
}

// Sync syncs what there is, and no more when its context has ended.
func TestSyncEndsWithItsContext(t *testing.T) {
	t.Parallel()
	d, err := storedir.OpenHome(t.TempDir(), "x1")
	succeed(t, err)
	t.Cleanup(func() { succeed(t, d.Close()) })
	write(t, filepath.Join(d.Data(), "file"), "x")
	succeed(t, d.Sync(t.Context()))
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	if err := d.Sync(ctx); !errors.Is(err, enough) {
		t.Errorf("Sync = %v", err)
	}
}
