package bus_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/testserver"
)

// asServer is set in a test binary that runs a NATS server and nothing else. Its value is a
// serverConfig.
const asServer = "BUS_TEST_RUN_SERVER"

// serverConfig describes a server in a process of its own.
type serverConfig struct {
	Name, Dir   string
	Port        int
	LeafPort    int      // for leaf nodes; 0 for none
	ClusterPort int      // 0 for a single server
	Routes      []string // to the others of the cluster

	User, Password, Token string            // of clients; empty for none
	NKey                  string            // of a client; empty for none
	Operator, System      string            // public keys: of who signs accounts, and of the system account
	Accounts              map[string]string // JWTs of accounts by their public keys
	Certificate, Key      []byte            // in PEM; nil: no TLS
	VerifyClients         bool              // clients need the same certificate
}

// options are those of the server.
func (c *serverConfig) options() (*server.Options, error) {
	o := &server.Options{ServerName: c.Name, Host: "127.0.0.1", Port: c.Port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: c.Dir, Username: c.User, Password: c.Password, Authorization: c.Token}
	if c.LeafPort != 0 {
		o.LeafNode.Host, o.LeafNode.Port, o.LeafNode.NoAdvertise = "127.0.0.1", c.LeafPort, true
	}
	if c.ClusterPort != 0 {
		o.Cluster = server.ClusterOpts{Name: "target", Host: "127.0.0.1", Port: c.ClusterPort}
	}
	for _, r := range c.Routes {
		u, err := url.Parse(r)
		if err != nil {
			return nil, err
		}
		o.Routes = append(o.Routes, u)
	}
	return o, errors.Join(c.setAccounts(o), c.setTLS(o))
}

// setAccounts sets who may connect by a key.
func (c *serverConfig) setAccounts(o *server.Options) error {
	if c.NKey != "" {
		o.Nkeys = []*server.NkeyUser{{Nkey: c.NKey}}
	}
	if c.Operator == "" {
		return nil
	}
	accounts := &server.MemAccResolver{}
	o.TrustedKeys, o.SystemAccount, o.AccountResolver = []string{c.Operator}, c.System, accounts
	for public, token := range c.Accounts {
		if err := accounts.Store(public, token); err != nil {
			return err
		}
	}
	return nil
}

// setTLS sets the certificate.
func (c *serverConfig) setTLS(o *server.Options) error {
	if c.Certificate == nil {
		return nil
	}
	pair, err := tls.X509KeyPair(c.Certificate, c.Key)
	o.TLS, o.TLSTimeout = true, 10
	o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
	if c.VerifyClients {
		o.TLSConfig.ClientAuth, o.TLSConfig.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		o.TLSConfig.ClientCAs.AppendCertsFromPEM(c.Certificate)
	}
	return err
}

// runServer runs a server until its standard input ends, so that it cannot outlive its test.
func runServer(options string) {
	var c serverConfig
	if err := json.Unmarshal([]byte(options), &c); err != nil {
		panic(err)
	}
	o, err := c.options()
	if err != nil {
		panic(err)
	}
	s, err := server.NewServer(o)
	if err != nil {
		panic(err)
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		panic("not ready")
	}
	say("ready %s", s.ClientURL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
}

// serverProcess is a NATS server in a process of its own.
type serverProcess struct {
	*program
	t      *testing.T
	c      serverConfig
	binary string // of nats-server, which then gets no more than a directory and a port; empty: this test binary
}

// newServer returns a server that is not started yet. It ends when its test ends, after what the
// test makes from now on.
func newServer(t *testing.T, binary string, c serverConfig) *serverProcess {
	t.Helper()
	p := &serverProcess{t: t, c: c, binary: binary}
	t.Cleanup(func() {
		if p.program != nil {
			p.end()
		}
	})
	return p
}

// url is where clients reach it.
func (p *serverProcess) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", p.c.Port) }

// start starts the process, and waits until it accepts connections.
func (p *serverProcess) start() {
	p.t.Helper()
	if p.binary != "" {
		p.program = launch(p.t, exec.Command(p.binary, "-js", "-sd", p.c.Dir, "-a", "127.0.0.1", "-p", fmt.Sprint(p.c.Port)))
		eventually(p.t, "the server accepts connections", func() bool {
			nc, err := net.Dial("tcp", strings.TrimPrefix(p.url(), "nats://"))
			if err == nil {
				_ = nc.Close()
			}
			return err == nil
		})
		return
	}
	options, err := json.Marshal(p.c)
	must(p.t, err)
	path, err := os.Executable()
	must(p.t, err)
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), asServer+"="+string(options))
	p.program = launch(p.t, cmd)
	if !p.lines.Scan() || !strings.HasPrefix(p.lines.Text(), "ready") {
		p.end() // so that its log is complete
		p.t.Fatalf("the server did not start: %q\n%s", p.lines.Text(), p.log.String())
	}
}

// stop stops a nats-server as its operator does.
func (p *serverProcess) stop() {
	_ = p.cmd.Process.Signal(os.Interrupt)
	_ = p.cmd.Wait()
}

// freeAddresses returns addresses on which nobody listens.
func freeAddresses(t *testing.T, n int) (all []string) {
	t.Helper()
	for _, port := range testserver.FreePorts(t, n) {
		all = append(all, fmt.Sprintf("127.0.0.1:%d", port))
	}
	return all
}

// servers starts n servers in processes of their own, as one cluster if there are several. It
// returns them with a URL of all, when they make streams.
func servers(t *testing.T, n int) (all []*serverProcess, urls string) {
	t.Helper()
	all, urls = startServers(t, n, serverConfig{})
	awaitServers(t, urls, n)
	return all, urls
}

// startServers starts n servers like c.
func startServers(t *testing.T, n int, c serverConfig) (all []*serverProcess, urls string) {
	t.Helper()
	ports := testserver.FreePorts(t, 2*n)
	dir := t.TempDir()
	var list, routes []string
	for i := range n {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[n+i]))
	}
	for i := range n {
		p := newServer(t, "", c)
		p.c.Name, p.c.Dir, p.c.Port = fmt.Sprintf("target-%d", i), filepath.Join(dir, fmt.Sprint(i)), ports[i]
		if n > 1 {
			p.c.ClusterPort, p.c.Routes = ports[n+i], slices.Delete(slices.Clone(routes), i, i+1)
		}
		p.start()
		all, list = append(all, p), append(list, p.url())
	}
	return all, strings.Join(list, ",")
}

// awaitServers waits until the servers make a stream with so many replicas.
func awaitServers(t *testing.T, urls string, replicas int) {
	t.Helper()
	nc, err := nats.Connect(urls, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	must(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	must(t, err)
	awaitStreams(t, js, replicas)
}

// awaitStreams waits until a stream with so many replicas can be made.
func awaitStreams(t *testing.T, js jetstream.JetStream, replicas int) {
	t.Helper()
	try := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "ready", Replicas: replicas, Storage: jetstream.MemoryStorage})
		return err
	}
	var last error
	for began := time.Now(); time.Since(began) < 60*time.Second; time.Sleep(50 * time.Millisecond) {
		if last = try(); last == nil {
			must(t, js.DeleteStream(t.Context(), "ready"))
			return
		}
	}
	t.Fatalf("the servers are not ready: %v", last)
}

// clientOf returns a JetStream client of servers.
func clientOf(t *testing.T, urls string) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(dialRaw(t, urls))
	must(t, err)
	return js
}

// toServers runs a test with one server to switch to, and with a cluster of three.
func toServers(t *testing.T, test func(t *testing.T, n int, urls string)) {
	t.Helper()
	for name, n := range map[string]int{"one server": 1, "cluster": 3} {
		t.Run(name, func(t *testing.T) {
			if n > 1 {
				needsCluster(t)
			}
			t.Parallel()
			_, urls := servers(t, n)
			test(t, n, urls)
		})
	}
}
