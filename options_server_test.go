package bus_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// onlyAnn is an authentication of the program's own.
type onlyAnn struct{}

func (onlyAnn) Check(c server.ClientAuthentication) bool { return c.GetOpts().Username == "ann" }

// TestGuardedPort has the embedded server ask its clients who they are. The bus
// itself needs nothing for it; strangers stay outside.
func TestGuardedPort(t *testing.T) {
	t.Parallel()
	seedFile, public := newNKey(t)
	serverTLS, clientTLS := newTLS(t)
	ann := []bus.ConnectOption{bus.WithUser("ann", "s3cret")}
	tests := map[string]struct {
		guard func(*server.Options)
		good  []bus.ConnectOption
	}{
		"one user": {func(o *server.Options) { o.Username, o.Password = "ann", "s3cret" }, ann},
		"users": {func(o *server.Options) {
			o.Users = []*server.User{{Username: "ann", Password: "s3cret"}, {Username: "bob", Password: "other"}}
		}, ann},
		"token":    {func(o *server.Options) { o.Authorization = "s3cret" }, []bus.ConnectOption{bus.WithToken("s3cret")}},
		"key":      {func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} }, []bus.ConnectOption{bus.WithNKey(seedFile)}},
		"own code": {func(o *server.Options) { o.CustomClientAuthentication = onlyAnn{} }, ann},
		"TLS and a user": {func(o *server.Options) {
			o.TLSConfig, o.TLSTimeout, o.Username, o.Password = serverTLS, 5, "ann", "s3cret"
		}, append([]bus.ConnectOption{bus.WithTLS(clientTLS)}, ann...)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t, bus.WithListen("127.0.0.1:0"), bus.WithServerOptions(tt.guard),
				bus.WithLogger(hclog.NewNullLogger())) // the server warns of passwords in plain text
			useMany(t, []*bus.Bus{b})
			if err := storeOne(t.Context(), b, 1); err != nil {
				t.Error(err)
			}
			friend, err := bus.Connect(t.Context(), b.ClientURL(), append(tt.good, bus.WithLogger(hclog.NewNullLogger()))...)
			if err != nil {
				t.Fatalf("who should be let in: %v", err)
			}
			useMany(t, []*bus.Bus{friend})
			if err := friend.Close(); err != nil {
				t.Error(err)
			}
			mustStayOutside(t, b.ClientURL())
		})
	}
}

// mustStayOutside tries to connect without, and with keys of one's own making.
func mustStayOutside(t *testing.T, url string) {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, opt := range map[string]nats.Option{
		"nothing": nats.Name("stranger"), "a password": nats.UserInfo("eve", "s3cret"), "a token": nats.Token("wrong"),
		"a key": nats.Nkey(public, key.Sign),
	} {
		nc, err := nats.Connect(url, opt)
		if err == nil {
			nc.Close()
			t.Errorf("a stranger with %s was let in", name)
		}
	}
}

// Options for streams on disk are accepted where a configuration chooses the mode, and refused
// where no option names a directory.
func TestOptionsForDisk(t *testing.T) {
	t.Parallel()
	host := bustest.New(t, anyPort())
	for name, tc := range map[string]struct {
		opts    []bus.Option
		refused bool
	}{
		"a directory":       {[]bus.Option{bus.WithStoreDir(t.TempDir())}, false},
		"no directory":      {[]bus.Option{bus.WithStoreDir("")}, false},
		"another server":    {[]bus.Option{bus.WithURL(host.ClientURL())}, false},
		"the environment":   {[]bus.Option{bus.FromEnv()}, false},
		"no URL":            {[]bus.Option{bus.WithURL("")}, true},
		"nothing":           {nil, true},
		"a limit of memory": {[]bus.Option{bus.WithMaxMemory(1 << 20)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for option, o := range map[string]bus.Option{"WithMaxStore": bus.WithMaxStore(1 << 20), "WithSync": bus.WithSync(bus.SyncEvery(time.Second))} {
				b, err := bus.New(append(slices.Clone(tc.opts), o, bus.WithLogger(silent()))...)
				if !tc.refused {
					must(t, err)
					must(t, b.Close())
				} else if e := asError[*bus.OptionError](t, err, "add WithStoreDir"); e.Option != option {
					t.Errorf("the error is about %s", e.Option)
				}
			}
		})
	}
}

// The smallest limits have room for a message, and for what a consumer writes about it.
func TestSmallestLimits(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bus.Option{
		"WithMaxMemory": {bus.WithMaxMemory(16 << 10)},
		"WithMaxStore":  {bus.WithMaxStore(16 << 10), bus.WithStoreDir(t.TempDir())},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := ownBus(t, opts...)
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
			h, arrived := collect[string](1)
			consume(t, st, "d", "s", h, bus.KeyBySubject())
			must(t, second(bus.PublishTo(t.Context(), st, "s", strings.Repeat("x", 4<<10))))
			receive(t, arrived)
			must(t, b.Close())
		})
	}
}
