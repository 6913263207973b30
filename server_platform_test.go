package bus_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// The tests of this file run a bus where the machine is not as one would wish.

// mustWork sends a message through a bus made with opts and closes it.
func mustWork(t *testing.T, opts ...bus.Option) {
	t.Helper()
	b, err := quietBus(opts...)
	if err != nil {
		t.Fatal(err)
	}
	useMany(t, []*bus.Bus{b})
	if err := storeOne(t.Context(), b, 1); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// readOnlyDir returns a folder in which no file can be made.
func readOnlyDir(t *testing.T) string {
	t.Helper()
	dir := "/proc" // root may write anywhere else
	if runtime.GOOS != "linux" {
		dir = t.TempDir()
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
	}
	probe := filepath.Join(dir, "probe")
	if err := os.WriteFile(probe, nil, 0o600); err == nil {
		_ = os.Remove(probe)
		t.Skip("SKIPPED: no folder is read-only for this user")
	}
	return dir
}

func TestReadOnlyWorkingDirectory(t *testing.T) {
	t.Chdir(readOnlyDir(t))
	mustWork(t)
	mustWork(t, bus.WithStoreDir(t.TempDir()))
	var storeErr *bus.StoreError
	if _, err := quietBus(bus.WithStoreDir("data")); !errors.As(err, &storeErr) || storeErr.Dir != "data" {
		t.Errorf("a store directory that cannot be made: %v", err)
	}
}

func TestWorkingDirectoryThatIsGone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("SKIPPED: this system removes no folder that is in use")
	}
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	mustWork(t)
	var storeErr *bus.StoreError
	if _, err := quietBus(bus.WithStoreDir("data")); !errors.As(err, &storeErr) {
		t.Errorf("a relative store directory: %v", err)
	}
}

func TestTemporaryDirectoryThatCannotBeUsed(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("SKIPPED: TMPDIR means nothing on this system")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	store := t.TempDir()
	for name, dir := range map[string]string{"absent": filepath.Join(file+"s", "absent"), "a file": file, "read-only": readOnlyDir(t)} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", dir)
			_, err := quietBus()
			var start *bus.StartError
			var path *fs.PathError
			if !errors.As(err, &start) || !errors.As(err, &path) {
				t.Fatalf("New returned %v", err)
			}
			if !strings.Contains(err.Error(), "temporary directory") || !strings.Contains(err.Error(), dir) {
				t.Errorf("the error does not say what and where: %v", err)
			}
			mustWork(t, bus.WithStoreDir(store)) // needs no temporary directory
		})
	}
}

// taken returns an address of this machine on which somebody listens.
func taken(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestListenWhereOthersDo(t *testing.T) {
	t.Parallel()
	addr := taken(t)
	dir := t.TempDir()
	_, err := quietBus(bus.WithListen(addr), bus.WithStoreDir(dir))
	mustBeTaken(t, err, addr)
	mustWork(t, bus.WithStoreDir(dir)) // the failed start left no lock behind
}

func mustBeTaken(t *testing.T, err error, addr string) {
	t.Helper()
	listen, ok := errors.AsType[*bus.StartError](err)
	if !ok {
		t.Fatalf("New returned %v, want a *StartError", err)
	}
	if listen.Addr != addr || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("the error does not say what is taken: %v", err)
	}
}

// TestPortOfNATSTaken occupies port 4222, unless a server of this machine does
// already: only who asks for that port may notice.
func TestPortOfNATSTaken(t *testing.T) {
	t.Parallel()
	const addr = "127.0.0.1:4222"
	if l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr); err == nil {
		defer func() { _ = l.Close() }()
	} else {
		t.Logf("taken already: %v", err)
	}
	mustWork(t)
	b := bustest.New(t, bus.WithListen("127.0.0.1:0"))
	url := b.ClientURL()
	if !strings.HasPrefix(url, "nats://127.0.0.1:") || strings.HasSuffix(url, ":4222") {
		t.Errorf("ClientURL is %q", url)
	}
	other, err := bus.Connect(t.Context(), url, bus.WithLogger(hclog.NewNullLogger()))
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	_, err = quietBus(bus.WithListen(addr))
	mustBeTaken(t, err, addr)
}
