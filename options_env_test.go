package bus_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/health"
)

// Credentials of the environment are for whichever server the options name in the
// end, and for none where there is none.
func TestFromEnvCredentials(t *testing.T) {
	byToken := bustest.New(t, anyPort(), bus.WithServerOptions(func(o *server.Options) { o.Authorization = "s3cret" }))
	byUser := bustest.New(t, anyPort(), bus.WithLogger(silent()), bus.WithServerOptions(func(o *server.Options) { o.Username, o.Password = "ann", "s3cret" }))
	token, user := map[string]string{"TOKEN": "s3cret"}, map[string]string{"USER": "ann", "PASSWORD": "s3cret"}
	for _, tc := range []struct {
		name     string
		vars     map[string]string
		opts     []bus.Option
		embedded bool
	}{
		{"URL before", token, []bus.Option{bus.WithURL(byToken.ClientURL()), bus.FromEnv()}, false},
		{"URL after", token, []bus.Option{bus.FromEnv(), bus.WithURL(byToken.ClientURL())}, false},
		{"URL from the environment", map[string]string{"TOKEN": "s3cret", "URL": byToken.ClientURL()}, []bus.Option{bus.FromEnv()}, false},
		{"URL taken back", map[string]string{"TOKEN": "s3cret", "URL": byToken.ClientURL()}, []bus.Option{bus.FromEnv(), bus.WithURL("")}, true},
		{"no URL", token, []bus.Option{bus.FromEnv()}, true},
		{"user, URL after", user, []bus.Option{bus.FromEnv(), bus.WithURL(byUser.ClientURL())}, false},
		{"user, no URL", user, []bus.Option{bus.FromEnv()}, true},
		{"an absent file, no URL", map[string]string{"CREDENTIALS": "/no/such/file"}, []bus.Option{bus.FromEnv()}, true},
		{"a password alone, no URL", map[string]string{"PASSWORD": "s3cret"}, []bus.Option{bus.FromEnv()}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			environment(t, tc.vars)
			for _, opts := range [][]bus.Option{tc.opts, append(slices.Clone(tc.opts), bus.WithName("x"))} {
				b, err := quietBus(opts...)
				must(t, err)
				if r := b.Health(t.Context()); r.Status == health.Failed || r.Embedded != tc.embedded {
					t.Errorf("got %+v", r)
				}
				must(t, b.Close())
			}
		})
	}
	t.Run("Connect", func(t *testing.T) {
		environment(t, token)
		b, err := bus.Connect(t.Context(), byToken.ClientURL(), bus.FromEnv(), bus.WithLogger(silent()))
		must(t, err)
		must(t, b.Close())
	})
}

// What is wrong with them is told when there is a server to use them for.
func TestFromEnvBadCredentials(t *testing.T) {
	for _, tc := range []struct {
		name, value string
		says        []string
	}{
		{"PASSWORD", "s3cret", []string{"OMNIBUS_PASSWORD", "no effect without OMNIBUS_USER"}},
		{"CREDENTIALS", "/no/such/file", []string{"/no/such/file", "OMNIBUS_CREDENTIALS"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			environment(t, map[string]string{tc.name: tc.value})
			for _, opts := range [][]bus.Option{
				{bus.FromEnv(), bus.WithURL("nats://127.0.0.1:1")}, {bus.WithURL("nats://127.0.0.1:1"), bus.FromEnv()},
			} {
				_, err := quietBus(opts...)
				asError[*bus.OptionError](t, err, tc.says...)
			}
		})
	}
	// An option of the program's own without a server is a mistake, as ever.
	_, err := quietBus(bus.FromEnv(), bus.WithToken("x"))
	asError[*bus.OptionError](t, err, "WithToken", "add WithURL")
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

// One line of the environment chooses an edge or a node of a cluster. The lines that only describe
// it have no effect alone.
func TestFromEnvLeafAndCluster(t *testing.T) {
	host := bustest.New(t, anyPort())
	leaf := map[string]string{"LEAF_DOMAIN": "berlin", "LEAF_CREDENTIALS": "/no/such/file"}
	cluster := map[string]string{"CLUSTER_NODE": "n-7", "CLUSTER_LISTEN": "127.0.0.1:6222", "CLUSTER_PEERS": "10.255.255.1:6222, 10.255.255.2:6222",
		"CLUSTER_USER": "node", "CLUSTER_PASSWORD": "s3cret", "STORE_DIR": t.TempDir()}
	open := func(t *testing.T) *bus.Bus {
		b, err := quietBus(bus.FromEnv())
		must(t, err)
		t.Cleanup(func() { must(t, b.Close()) })
		return b
	}
	t.Run("no mode", func(t *testing.T) {
		environment(t, leaf)
		environment(t, cluster)
		info, err := open(t).JetStream().AccountInfo(t.Context())
		must(t, err)
		if info.Domain == "berlin" {
			t.Errorf("the domain is %q", info.Domain)
		}
	})
	t.Run("edge", func(t *testing.T) {
		environment(t, map[string]string{"LEAF": "nats-leaf://127.0.0.1:1", "LEAF_DOMAIN": "berlin"})
		info, err := open(t).JetStream().AccountInfo(t.Context())
		must(t, err)
		if info.Domain != "berlin" {
			t.Errorf("the domain is %q", info.Domain)
		}
	})
	t.Run("node", func(t *testing.T) {
		needsCluster(t)
		cluster["CLUSTER"], cluster["CLUSTER_LISTEN"], cluster["STORE_DIR"] = "shop", freeAddresses(t, 1)[0], t.TempDir()
		environment(t, cluster)
		nc := open(t).Conn()
		if nc.ConnectedServerName() != "n-7" || nc.ConnectedClusterName() != "shop" {
			t.Errorf("the server is %q of cluster %q", nc.ConnectedServerName(), nc.ConnectedClusterName())
		}
	})
	for name, tc := range map[string]struct {
		vars map[string]string
		says []string
	}{
		"credentials":     {map[string]string{"LEAF": "nats-leaf://127.0.0.1:1", "LEAF_CREDENTIALS": "/no/such/file"}, []string{"WithLeaf", "/no/such/file", "OMNIBUS_LEAF_CREDENTIALS"}},
		"domain":          {map[string]string{"LEAF": "nats-leaf://127.0.0.1:1", "LEAF_DOMAIN": "a.b"}, []string{`WithLeaf("a.b"): OMNIBUS_LEAF_DOMAIN must have`}},
		"no peers":        {map[string]string{"CLUSTER": "shop"}, []string{"WithCluster([]): OMNIBUS_CLUSTER_PEERS must name all nodes", `WithCluster(""): OMNIBUS_CLUSTER_LISTEN must be host:port`, "WithCluster (OMNIBUS_CLUSTER)(shop): a node keeps its streams on disk; add WithStoreDir (OMNIBUS_STORE_DIR)"}},
		"cluster's name":  {map[string]string{"CLUSTER": "a.b", "CLUSTER_NODE": "c.d"}, []string{`WithCluster("a.b"): OMNIBUS_CLUSTER must have`, `WithCluster("c.d"): OMNIBUS_CLUSTER_NODE must have`}},
		"a user alone":    {map[string]string{"CLUSTER": "shop", "CLUSTER_USER": "node"}, []string{"OMNIBUS_CLUSTER_PASSWORD is empty"}},
		"two identities":  {map[string]string{"URL": "nats://127.0.0.1:1", "TOKEN": "s3cret", "USER": "ann"}, []string{"OMNIBUS_USER(…): a second way to identify the bus, after OMNIBUS_TOKEN"}},
		"leaf and URL":    {map[string]string{"LEAF": "nats-leaf://ann:s3cret@127.0.0.1:1", "URL": "nats://127.0.0.1:1"}, []string{"WithLeaf (OMNIBUS_LEAF)", "WithURL (OMNIBUS_URL) names another server; give one of the two"}},
		"cluster and URL": {map[string]string{"CLUSTER": "shop", "URL": "nats://127.0.0.1:1"}, []string{"WithCluster", "give one of the two"}},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t, tc.vars)
			_, err := quietBus(bus.FromEnv())
			asError[*bus.OptionError](t, err, tc.says...)
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
	t.Run("Connect", func(t *testing.T) { // also where no node can run
		cluster["CLUSTER"], leaf["LEAF"], leaf["LEAF_CREDENTIALS"] = "shop", "nats-leaf://127.0.0.1:1", ""
		environment(t, cluster)
		environment(t, leaf)
		b, err := bus.Connect(t.Context(), host.ClientURL(), bus.FromEnv(), bus.WithLogger(silent()))
		must(t, err)
		must(t, b.Close())
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

// TestEnvironmentTable tries what docs/modes.md says of each variable, and that it has all of them.
func TestEnvironmentTable(t *testing.T) {
	text, err := os.ReadFile("docs/modes.md")
	must(t, err)
	var names []string
	for row := range strings.Lines(string(text)) {
		cells := strings.Split(row, " | ")
		name, ok := strings.CutPrefix(cells[0], "| `OMNIBUS_")
		if !ok || len(cells) != 5 {
			continue
		}
		name = strings.TrimSuffix(name, "`")
		names = append(names, "OMNIBUS_"+name)
		wrong, _, _ := strings.Cut(strings.TrimPrefix(cells[3], "`"), "`")
		if says := strings.TrimSuffix(cells[4], " |\n"); says != "–" {
			t.Run(name, func(t *testing.T) {
				if strings.HasPrefix(name, "CLUSTER") {
					needsCluster(t)
				}
				environment(t, companions[name])
				if mode, _, part := strings.Cut(name, "_"); part && (mode == "LEAF" || mode == "CLUSTER") {
					environment(t, map[string]string{mode: map[string]string{"LEAF": "nats-leaf://hub:7422", "CLUSTER": "shop"}[mode]})
				}
				environment(t, map[string]string{name: wrong})
				asError[*bus.OptionError](t, second(quietBus(bus.FromEnv())), says)
			})
		}
	}
	environment(t, map[string]string{"UNKNOWN": "x"})
	all := second(quietBus(bus.FromEnv())).Error()
	_, list, _ := strings.Cut(all, "the variables are ")
	slices.Sort(names)
	if want := strings.Join(names, ", "); list != want {
		t.Errorf("the variables are %s, documented are %s", list, want)
	}
}

// companions are the variables that others need, so that what is wrong with those is seen.
var companions = map[string]map[string]string{
	"PASSWORD":    {"URL": "nats://127.0.0.1:1"},
	"CREDENTIALS": {"URL": "nats://127.0.0.1:1"},
	"NKEY":        {"URL": "nats://127.0.0.1:1"},
	"TLS_CA":      {"URL": "nats://127.0.0.1:1"},
	"TOKEN":       {"URL": "nats://127.0.0.1:1", "USER": "ann"},
}

// The environment alone can connect a program to a server with a certificate of its own authority and a
// prefix for replies.
func TestFromEnvTrustsAnAuthority(t *testing.T) {
	certificate, key := newCertificate(t)
	pair, err := tls.X509KeyPair(certificate, key)
	must(t, err)
	s := external(t, func(o *server.Options) {
		o.TLSConfig, o.TLS, o.TLSTimeout = &tls.Config{Certificates: []tls.Certificate{pair}}, true, 5
	})
	file := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(file, certificate, 0o600))
	environment(t, map[string]string{"URL": s.ClientURL(), "TLS_CA": file, "INBOX_PREFIX": "_INBOX_shop"})
	b, err := quietBus(bus.FromEnv())
	must(t, err)
	if inbox := b.Conn().NewInbox(); !strings.HasPrefix(inbox, "_INBOX_shop.") {
		t.Errorf("replies come on %s", inbox)
	}
	must(t, b.Close())
	environment(t, map[string]string{"TLS_CA": ""})
	asError[*bus.ConnectError](t, second(quietBus(bus.FromEnv())), "certificate")
}

// A misspelt variable is named with the one that is probably meant.
func TestFromEnvMisspelt(t *testing.T) {
	for name, want := range map[string]string{"STOREDIR": "did you mean OMNIBUS_STORE_DIR?", "LISTN": "did you mean OMNIBUS_LISTEN?", "XYZZY": "OMNIBUS_XYZZY): is not a variable of Omnibus; the variables are"} {
		t.Run(name, func(t *testing.T) {
			environment(t, map[string]string{name: "x"})
			asError[*bus.OptionError](t, second(quietBus(bus.FromEnv())), want)
		})
	}
}
