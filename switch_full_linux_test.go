package bus_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

// envDisk is set in a child that has a name space of its own for mounts. It names a directory.
const envDisk = "BUS_TEST_DISK"

// Disks that are full, here or at the target. A child mounts small ones.
func TestSwitchToWithFullDisks(t *testing.T) {
	if dir := os.Getenv(envDisk); dir != "" {
		withFullDisks(t, dir)
		return
	}
	t.Parallel()
	program, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), program, "-test.count=1", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), envDisk+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if id := os.Getuid(); id != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || strings.Contains(string(out), "SKIPPED"):
		t.Skipf("SKIPPED: this user cannot mount: %v\n%s", err, out)
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	}
}

// disk mounts a small file system.
func disk(t *testing.T, dir string) string {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=48m"); err != nil {
		t.Skip("SKIPPED: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fillDisk uses up the room of a disk. The result frees it.
func fillDisk(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	must(t, err)
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	must(t, f.Close())
	return func() { must(t, os.Remove(name)) }
}

func withFullDisks(t *testing.T, dir string) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Skip("SKIPPED: ", err)
	}
	for _, phase := range []switchover.Phase{switchover.Preflight, switchover.Hold, switchover.Copy, switchover.Verify, switchover.Commit, switchover.Connect} {
		t.Run("here, "+string(phase), func(t *testing.T) { fullHere(t, disk(t, filepath.Join(dir, string(phase))), phase) })
	}
	for _, phase := range []switchover.Phase{switchover.Fence, switchover.Copy, switchover.Commit, switchover.Connect} {
		t.Run("here, on the way home, "+string(phase), func(t *testing.T) { fullAtHome(t, disk(t, filepath.Join(dir, "home "+string(phase))), phase) })
	}
	t.Run("at the target, after the commit", func(t *testing.T) { fullAfterwards(t, disk(t, filepath.Join(dir, "afterwards"))) })
	for _, phase := range []switchover.Phase{switchover.Hold, switchover.Copy} {
		t.Run("at the target, "+string(phase), func(t *testing.T) { fullThere(t, disk(t, filepath.Join(dir, "target "+string(phase))), phase) })
	}
}

// fullHere fills the disk of the store directory in a phase.
func fullHere(t *testing.T, disk string, phase switchover.Phase) {
	target, dir := newTarget(t), filepath.Join(disk, "store")
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 100)
	var free func()
	_, err := b.SwitchTo(t.Context(), target.ClientURL(), switchover.MaxWait(time.Minute), at(phase, func() { free = fillDisk(t, disk) }))
	free()
	stored := 100
	if phase == switchover.Connect {
		must(t, err)
	} else {
		mustGoOn(t, b, st, err, 100, "the disk is full: make room")
		stored = 110
		must(t, b.Close())
		if b = openOn(t, dir); !healthy(t, b).Embedded {
			t.Error("after a restart the bus is not embedded")
		}
		switchTo(t, b, target.ClientURL())
	}
	must(t, b.Close())
	b = openOn(t, dir)
	if healthy(t, b).Embedded {
		t.Error("after the commit a restart leads back")
	}
	if got := storedNumbers(t, lookUp(t, b, "S")); !slices.Equal(got, oneTo(stored)) {
		t.Errorf("the stream has %v", got)
	}
	must(t, b.Close())
}

// fullAtHome fills the disk of the store directory in a phase of the way home. Before the commit
// the bus stays at the server, and comes home when there is room.
func fullAtHome(t *testing.T, disk string, phase switchover.Phase) {
	target, dir := newTarget(t), filepath.Join(disk, "store")
	access := []bus.Option{bus.WithURL(target.ClientURL()), bus.WithTimeout(30 * time.Second)}
	b := openOn(t, dir, access...)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 10)
	large := declare(t, b, bus.StreamConfig{Name: "LARGE", Subjects: []string{"large"}})
	for range 50 {
		must(t, second(bus.PublishTo(t.Context(), large, bus.Subject[[]byte]("large"), incompressible(100_000))))
	}
	var free func()
	_, err := b.SwitchTo(t.Context(), switchover.Embedded, switchover.MaxWait(20*time.Second), at(phase, func() { free = fillDisk(t, disk) }))
	free()
	if phase == switchover.Connect {
		must(t, err)
	} else {
		failed, _ := errors.AsType[*switchover.Error](err)
		if failed == nil || failed.Committed || !strings.Contains(err.Error(), "make room") {
			t.Fatalf("SwitchTo = %v", err)
		}
		storeNumbers(t, st, 11, 20)
		must(t, b.Close())
		b = openOn(t, dir, access...)
		st = lookUp(t, b, "S") // only what the bus uses comes home
		lookUp(t, b, "LARGE")
		must(t, second(b.SwitchTo(t.Context(), switchover.Embedded, switchover.MaxWait(20*time.Second))))
		storeNumbers(t, st, 21, 30)
	}
	must(t, b.Close())
	if b = openOn(t, dir); !healthy(t, b).Embedded {
		t.Error("after the commit a restart leads back")
	}
	stored := 30
	if phase == switchover.Connect {
		stored = 10
	}
	if got := storedNumbers(t, lookUp(t, b, "S")); !slices.Equal(got, oneTo(stored)) {
		t.Errorf("the stream has %v", got)
	}
	if n := streamInfo(t, b, "LARGE").State.Msgs; n != 50 {
		t.Errorf("the large stream has %d messages", n)
	}
	must(t, b.Close())
}

// fullThere fills the disk of the target before the copy. Its server may give JetStream up
// then, so it is another one that takes the streams in the end.
func fullThere(t *testing.T, disk string, phase switchover.Phase) {
	target := newTarget(t, func(o *server.Options) { o.StoreDir = disk })
	b := openOn(t, t.TempDir(), bus.WithSync(bus.SyncEvery(time.Minute)))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 10)
	large := declare(t, b, bus.StreamConfig{Name: "LARGE", Subjects: []string{"large"}})
	for range 80 {
		must(t, second(bus.PublishTo(t.Context(), large, bus.Subject[[]byte]("large"), incompressible(100_000))))
	}
	var free func()
	_, err := b.SwitchTo(t.Context(), target.ClientURL(), switchover.MaxWait(20*time.Second), at(phase, func() { free = fillDisk(t, disk) }))
	mustGoOn(t, b, st, err, 10, "make room there")
	t.Log(err)
	free()
	switchTo(t, b, newTarget(t).ClientURL())
	if got := storedNumbers(t, st); !slices.Equal(got, oneTo(20)) {
		t.Errorf("the stream has %v", got)
	}
	must(t, b.Close())
}

// fullAfterwards fills the disk of the target after the commit. Nothing leads back, and when the
// server has room again the bus goes on there.
func fullAfterwards(t *testing.T, disk string) {
	target, dir := newTarget(t, func(o *server.Options) { o.StoreDir = disk }), t.TempDir()
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 100)
	var free func()
	begun := make(map[switchover.Phase]bool)
	report, err := b.SwitchTo(t.Context(), target.ClientURL(), switchover.MaxWait(time.Minute), switchover.OnProgress(func(p switchover.Progress) {
		if begun[p.Phase] {
			return
		}
		begun[p.Phase] = true
		switch p.Phase {
		case switchover.Connect:
			free = fillDisk(t, disk)
		case switchover.Settle:
			free()
			target.Restart()
		}
	}))
	if failed, ok := errors.AsType[*switchover.Error](err); err != nil && (!ok || !failed.Committed) {
		t.Fatalf("SwitchTo = %v", err)
	}
	t.Log(report, err)
	eventually(t, "the bus is at the target", func() bool { return b.Conn().IsConnected() && b.ClientURL() == target.ClientURL() })
	for n := 101; n <= 110; n++ { // the bus may not have noticed yet that the server was restarted
		eventually(t, "a message is stored", func() bool {
			_, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.%d", n%3)), n, bus.MsgID(fmt.Sprint(n)))
			return err == nil
		})
	}
	must(t, b.Close())
	if b = openOn(t, dir); healthy(t, b).Embedded {
		t.Error("a restart leads back")
	}
	if got := storedNumbers(t, lookUp(t, b, "S")); !slices.Equal(got, oneTo(110)) {
		t.Errorf("the stream has %v", got)
	}
	must(t, b.Close())
}
