package bus_test

import (
	"bytes"
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
	"github.com/omnibus-go/bus/health"
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

// environment sets the variables of FromEnv for one test.
func environment(t *testing.T, vars map[string]string) {
	t.Helper()
	for name, value := range vars {
		t.Setenv("OMNIBUS_"+name, value)
	}
}

func TestFromEnvEmbedded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	environment(t, map[string]string{
		"STORE_DIR": dir, "LISTEN": "127.0.0.1:0", "NAME": "from-env", "SYNC": "250ms", "MAX_MEMORY": "1048576",
		"MAX_STORE": "2097152", "MAX_PAYLOAD": "65536", "TIMEOUT": "3s", "DRAIN_TIMEOUT": "4s", "COMPRESSION": "s2",
		"LOG_LEVEL": "debug", "TOKEN": "for a server that is not there", "USER": "likewise", "URL": "",
	})
	var log bytes.Buffer
	b, err := bus.New(bus.FromEnv(), bus.WithLogger(hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Error})))
	if err != nil {
		t.Fatal(err)
	}
	account, err := b.JetStream().AccountInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	url, name, payload := b.ClientURL(), b.Conn().Opts.Name, b.Conn().MaxPayload()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if url == "" || name != "from-env" || payload != 65536 {
		t.Errorf("URL %q, name %q, payload limit %d", url, name, payload)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the store directory: %v", err)
	}
	if account.Domain == "" {
		t.Error("no domain")
	}
	for _, want := range []string{"[DEBUG]", "sync=250ms", dir} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, &log)
		}
	}
}

func TestFromEnvExternal(t *testing.T) {
	server := bustest.New(t, bus.WithListen("127.0.0.1:0"))
	absent := filepath.Join(t.TempDir(), "absent")
	t.Run("New follows the URL", func(t *testing.T) {
		environment(t, map[string]string{"URL": server.ClientURL(), "NAME": "from-env"})
		b, err := quietBus(bus.FromEnv())
		if err != nil {
			t.Fatal(err)
		}
		if r := b.Health(t.Context()); r.Embedded || r.Status != health.Healthy || b.Conn().Opts.Name != "from-env" {
			t.Errorf("%+v", r)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("Connect ignores what is for New", func(t *testing.T) {
		environment(t, map[string]string{"URL": "nats://nowhere.invalid:1", "STORE_DIR": absent, "LISTEN": "127.0.0.1:0"})
		b, err := bus.Connect(t.Context(), server.ClientURL(), bus.FromEnv(), bus.WithLogger(hclog.NewNullLogger()))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(absent); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the store directory: %v", err)
		}
	})
	t.Run("later options win", func(t *testing.T) {
		environment(t, map[string]string{"URL": "nats://nowhere.invalid:1", "NAME": "from-env"})
		b, err := quietBus(bus.FromEnv(), bus.WithURL(""), bus.WithName("later"))
		if err != nil {
			t.Fatal(err)
		}
		if r := b.Health(t.Context()); !r.Embedded || b.Conn().Opts.Name != "later" {
			t.Errorf("%+v", r)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestFromEnvKeepsSecrets looks at the error of a server that is not there.
func TestFromEnvKeepsSecrets(t *testing.T) {
	environment(t, map[string]string{"USER": "alice", "PASSWORD": "secret", "URL": "nats://alice:secret@127.0.0.1:1"})
	_, err := bus.New(bus.FromEnv(), bus.WithLogger(hclog.NewNullLogger()))
	if _, ok := errors.AsType[*bus.ConnectError](err); !ok {
		t.Fatalf("New returned %v, want a *ConnectError", err)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error tells the password: %v", err)
	}
}

func TestFromEnvMistakes(t *testing.T) {
	wrong := map[string]string{
		"STOREDIR": "data", "TIMEOUT": "5", "DRAIN_TIMEOUT": "-1s", "LISTEN": "4222", "SYNC": "sometimes", "MAX_MEMORY": "1GB",
		"MAX_STORE": "-1", "MAX_PAYLOAD": "99999999999", "COMPRESSION": "rar", "LOG_LEVEL": "loud", "NAME": "a b", "URL": "ftp://x",
	}
	for name, value := range wrong {
		t.Run(name, func(t *testing.T) {
			environment(t, map[string]string{name: value})
			b, err := quietBus(bus.FromEnv())
			if err == nil {
				t.Error("New took it", b.Close())
			}
			var option *bus.OptionError
			if !errors.As(err, &option) || option.Reason == "" {
				t.Errorf("New returned %v, want an *OptionError with a reason", err)
			}
		})
	}
	t.Run("all at once", func(t *testing.T) {
		environment(t, wrong)
		_, err := quietBus(bus.FromEnv())
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok || len(joined.Unwrap()) < len(wrong) {
			t.Errorf("%d mistakes, New reports: %v", len(wrong), err)
		}
	})
	t.Run("of Kubernetes", func(t *testing.T) {
		environment(t, map[string]string{"SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "4222", "SERVICE_PORT_CLIENT": "4222", "PORT": "tcp://10.0.0.1:4222",
			"PORT_4222_TCP": "tcp://10.0.0.1:4222", "PORT_4222_TCP_PROTO": "tcp", "PORT_4222_TCP_PORT": "4222", "PORT_4222_TCP_ADDR": "10.0.0.1"})
		mustWork(t, bus.FromEnv())
	})
	t.Run("empty counts as absent", func(t *testing.T) {
		for name := range wrong {
			environment(t, map[string]string{name: ""})
		}
		mustWork(t, bus.FromEnv())
	})
}
