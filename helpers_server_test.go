package bus_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// asServer is set in a test binary that runs a NATS server and nothing else. Its value is a
// serverConfig.
const asServer = "BUS_TEST_RUN_SERVER"

// serverConfig describes a server in a process of its own.
type serverConfig struct {
	Name, Dir      string
	Port           int
	User, Password string
	TLS            bool
	ClusterPort    int      // 0 for a single server
	Routes         []string // to the others of the cluster
}

// runServer runs a server until its standard input ends, so that it cannot outlive its test.
func runServer(options string) {
	var c serverConfig
	if err := json.Unmarshal([]byte(options), &c); err != nil {
		panic(err)
	}
	o := &server.Options{ServerName: c.Name, Host: "127.0.0.1", Port: c.Port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: c.Dir, Username: c.User, Password: c.Password}
	if c.ClusterPort != 0 {
		o.Cluster = server.ClusterOpts{Name: "target", Host: "127.0.0.1", Port: c.ClusterPort}
		for _, r := range c.Routes {
			u, err := url.Parse(r)
			if err != nil {
				panic(err)
			}
			o.Routes = append(o.Routes, u)
		}
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

// targetServer is a NATS server in a process of its own.
type targetServer struct {
	t     *testing.T
	c     serverConfig
	cmd   *exec.Cmd
	stdin io.Closer
}

// url is where clients reach it.
func (p *targetServer) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", p.c.Port) }

// start starts the process. It does not wait for it.
func (p *targetServer) start() {
	p.t.Helper()
	options, err := json.Marshal(p.c)
	must(p.t, err)
	program, err := os.Executable()
	must(p.t, err)
	p.cmd = exec.Command(program)
	p.cmd.Env = append(os.Environ(), asServer+"="+string(options))
	stdin, err := p.cmd.StdinPipe()
	must(p.t, err)
	p.stdin = stdin
	out, err := p.cmd.StdoutPipe()
	must(p.t, err)
	must(p.t, p.cmd.Start())
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "ready") {
		p.t.Fatalf("the server did not start: %q", lines.Text())
	}
}

// kill kills the process and waits until it is gone.
func (p *targetServer) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = p.stdin.Close()
}

// freePorts returns ports that nobody uses. Somebody may take one before it is used, which is
// as unlikely as the range is large.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// servers starts n servers in processes of their own, as one cluster if there are several. It
// returns them with a URL of all, when they make streams.
func servers(t *testing.T, n int) (all []*targetServer, urls string) {
	t.Helper()
	ports := freePorts(t, 2*n)
	dir := t.TempDir()
	var list, routes []string
	for i := range n {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[n+i]))
	}
	for i := range n {
		p := &targetServer{t: t, c: serverConfig{Name: fmt.Sprintf("target-%d", i), Dir: filepath.Join(dir, fmt.Sprint(i)), Port: ports[i]}}
		if n > 1 {
			p.c.ClusterPort, p.c.Routes = ports[n+i], append(append([]string(nil), routes[:i]...), routes[i+1:]...)
		}
		p.start()
		t.Cleanup(p.kill)
		all, list = append(all, p), append(list, p.url())
	}
	urls = strings.Join(list, ",")
	awaitServers(t, urls, n)
	return all, urls
}

// awaitServers waits until the servers make a stream with so many replicas.
func awaitServers(t *testing.T, urls string, replicas int) {
	t.Helper()
	nc, err := nats.Connect(urls, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	must(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Second))
	must(t, err)
	var last error
	for began := time.Now(); time.Since(began) < 60*time.Second; time.Sleep(50 * time.Millisecond) {
		if _, last = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ready", Replicas: replicas, Storage: jetstream.MemoryStorage}); last == nil {
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
