package bus_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/switchover"
)

// mode is a way to run a bus.
type mode struct {
	name   string
	column string // of the table in docs/modes.md
	start  func(*testing.T) *place
}

// allModesVariable names the environment variable that has TestEveryMode try each way to
// identify a bus on a cluster too.
const allModesVariable = "OMNIBUS_TEST_ALL_MODES"

// modes returns all of them. External servers are processes of their own. On 32-bit systems
// nats-server cannot run in a cluster, see needsCluster.
func modes() []mode {
	all := []mode{
		{"memory", "memory", func(t *testing.T) *place { return startProgram(t) }},
		{"disk", "disk", func(t *testing.T) *place { return startProgram(t, bus.WithStoreDir(t.TempDir())) }},
		{"listener", "listener", startListener},
		{"edge", "edge", startEdge},
	}
	if strconv.IntSize == 64 {
		all = append(all, mode{"node", "node of a cluster", startNodes})
	}
	for _, i := range identities {
		all = append(all, mode{"server, " + i.name, "external server", i.startOn(1)})
		if strconv.IntSize == 64 && (i.onCluster || os.Getenv(allModesVariable) != "") {
			all = append(all, mode{"cluster, " + i.name, "external cluster", i.startOn(3)})
		}
	}
	return all
}

// startProgram starts a bus in its mode.
func startProgram(t *testing.T, opts ...bus.Option) *place {
	t.Helper()
	opts = append([]bus.Option{bus.WithLogger(silent()), bus.WithDrainTimeout(5 * time.Second), bus.WithTimeout(20 * time.Second)}, opts...)
	p := &place{}
	open := func(t *testing.T) {
		b, err := bus.New(opts...)
		must(t, err)
		p.bus, p.peer, p.twin = b, b, b
	}
	open(t)
	t.Cleanup(func() {
		if err := p.bus.Close(); !p.node { // the last nodes of a cluster have no majority for what they settle
			must(t, err)
		}
	})
	p.reopen = func(t *testing.T) *bus.Bus {
		must(t, errors.Join(p.twin.Close(), p.bus.Close()))
		open(t)
		return p.bus
	}
	return p
}

// joinProgram connects another program to a server. The test closes it.
func joinProgram(t *testing.T, url string, opts ...bus.ConnectOption) *bus.Bus {
	t.Helper()
	b, err := bus.Connect(t.Context(), url, append([]bus.ConnectOption{bus.WithLogger(silent()), bus.WithDrainTimeout(5 * time.Second), bus.WithTimeout(20 * time.Second)}, opts...)...)
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func startListener(t *testing.T) *place {
	p := startProgram(t, bus.WithStoreDir(t.TempDir()), anyPort())
	p.twin = joinProgram(t, p.bus.ClientURL())
	p.peer = p.twin
	return p
}

// startEdge starts a hub in a process of its own and a bus that is linked to it. The peer is at
// the hub, the twin at the edge.
func startEdge(t *testing.T) *place {
	leaves := testserver.FreePorts(t, 1)[0]
	_, url := startServers(t, 1, serverConfig{LeafPort: leaves})
	p := startProgram(t, bus.WithStoreDir(t.TempDir()), anyPort(), bus.WithLeaf(bus.Leaf{URL: fmt.Sprintf("nats-leaf://127.0.0.1:%d", leaves), Domain: "edge"}))
	p.twin, p.peer = joinProgram(t, p.bus.ClientURL()), joinProgram(t, url)
	return p
}

// startNodes starts three programs that each embed a node of one cluster.
func startNodes(t *testing.T) *place {
	peers := freeAddresses(t, 3)
	var nodes []*place
	for i, listen := range peers {
		nodes = append(nodes, startProgram(t, bus.WithStoreDir(t.TempDir()), anyPort(), bus.WithSync(bus.SyncEvery(time.Minute)),
			bus.WithCluster(bus.Cluster{Name: "test", Node: "n-" + strconv.Itoa(i), Listen: listen, Peers: peers, User: "node", Password: "s3cret"})))
	}
	awaitStreams(t, nodes[0].bus.JetStream(), 3)
	settled := time.Now() // nodes that have just met elect leaders and connect a second time
	within(t, clusterPatience, "the nodes have settled", func() bool {
		for _, n := range nodes {
			if n.bus.Health(t.Context()).Status != health.Healthy {
				settled = time.Now()
			}
		}
		return time.Since(settled) > 2*time.Second
	})
	for _, n := range nodes {
		n.node = true
	}
	p := nodes[0]
	p.peer, p.twin = nodes[1].bus, nodes[1].bus
	again := p.reopen
	p.reopen = func(t *testing.T) *bus.Bus {
		p.twin = p.bus
		return again(t)
	}
	return p
}

// identity is a way to identify a bus to an external server.
type identity struct {
	name      string
	onCluster bool // TestEveryMode tries it on a cluster each time
	set       func(*testing.T, *serverConfig) []bus.ConnectOption
}

var identities = []identity{
	{"URLs", true, func(*testing.T, *serverConfig) []bus.ConnectOption { return nil }},
	{"user", false, func(_ *testing.T, c *serverConfig) []bus.ConnectOption {
		c.User, c.Password = "ann", "s3cret"
		return []bus.ConnectOption{bus.WithUser("ann", "s3cret")}
	}},
	{"token", false, func(_ *testing.T, c *serverConfig) []bus.ConnectOption {
		c.Token = "s3cret"
		return []bus.ConnectOption{bus.WithToken("s3cret")}
	}},
	{"NKey", false, func(t *testing.T, c *serverConfig) []bus.ConnectOption {
		seed, public := newNKey(t)
		c.NKey = public
		return []bus.ConnectOption{bus.WithNKey(seed)}
	}},
	{"credentials", false, withCredentials},
	{"TLS, user", true, func(t *testing.T, c *serverConfig) []bus.ConnectOption {
		c.User, c.Password = "ann", "s3cret"
		c.Certificate, c.Key = newCertificate(t)
		return []bus.ConnectOption{bus.WithUser("ann", "s3cret"), bus.WithTLS(trusting(c.Certificate))}
	}},
	{"mTLS, credentials", true, func(t *testing.T, c *serverConfig) []bus.ConnectOption {
		c.Certificate, c.Key = newCertificate(t)
		c.VerifyClients = true
		pair, err := tls.X509KeyPair(c.Certificate, c.Key)
		must(t, err)
		both := trusting(c.Certificate)
		both.Certificates = []tls.Certificate{pair}
		return append(withCredentials(t, c), bus.WithTLS(both))
	}},
}

// withCredentials has the server want the JWT of a user.
func withCredentials(t *testing.T, c *serverConfig) []bus.ConnectOption {
	operator := newKeyPair(t, nkeys.CreateOperator)
	account, token := newAccount(t, operator, -1)
	system, systemToken := newAccount(t, operator, 0)
	c.Operator, c.System = publicKey(t, operator), publicKey(t, system)
	c.Accounts = map[string]string{publicKey(t, account): token, c.System: systemToken}
	return []bus.ConnectOption{bus.WithCredentials(newCredentials(t, account))}
}

// startOn returns what starts so many servers, and two programs that use them.
func (i identity) startOn(servers int) func(*testing.T) *place {
	return func(t *testing.T) *place {
		var c serverConfig
		options := i.set(t, &c)
		_, urls := startServers(t, servers, c)
		opts := []bus.Option{bus.WithURL(urls)}
		for _, o := range options {
			opts = append(opts, o)
		}
		p := startProgram(t, opts...)
		awaitStreams(t, p.bus.JetStream(), servers)
		list := strings.Split(urls, ",")
		p.twin = joinProgram(t, list[len(list)-1], options...)
		p.peer = p.twin
		return p
	}
}

// TestEveryMode tries all behaviours in each mode, what docs/modes.md says of the mode, and a
// restart of the program.
func TestEveryMode(t *testing.T) {
	t.Parallel()
	table := modeTable(t)
	target := newTarget(t)
	for _, m := range modes() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			p := m.start(t)
			eventually(t, "all is well", func() bool { return p.bus.Health(t.Context()).Status == health.Healthy })
			said := func(row, shown string) {
				t.Helper()
				if want := table[row][m.column]; shown != want {
					t.Errorf("docs/modes.md says of %q %q, and it is %q", row, want, shown)
				}
			}
			for row, show := range modeRows {
				if show != nil {
					said(row, show(t, p, target.ClientURL()))
				}
			}
			leaveWork(t, p.bus)
			t.Run("behaviours", func(t *testing.T) { tryBehaviours(t, p) })
			said(rowRestart, map[bool]string{true: "there", false: "gone"}[startAgain(t, p)])
		})
	}
}

// rowRestart is the row that startAgain shows.
const rowRestart = "the messages after the program was started again"

// modeRows are the rows of the table in docs/modes.md. A function returns what the column of the
// place should say; the others are shown by the tests in modeTests.
var modeRows = map[string]func(t *testing.T, p *place, target string) string{
	"the server runs": func(t *testing.T, p *place, _ string) string {
		if p.bus.Health(t.Context()).Embedded {
			return "in the process"
		}
		return "elsewhere"
	},
	"`StreamConfig.Storage` zero": func(t *testing.T, p *place, _ string) string {
		return withStream(t, p.bus, bus.StreamConfig{}, func(name string) string {
			return map[string]string{"Memory": "memory", "File": "disk"}[streamInfo(t, p.bus, name).Config.Storage.String()]
		})
	},
	"`FileStorage`": func(t *testing.T, p *place, _ string) string {
		return withStream(t, p.bus, bus.StreamConfig{Storage: bus.FileStorage}, isUsable)
	},
	"`StreamConfig.Replicas` zero": func(t *testing.T, p *place, _ string) string {
		return withStream(t, p.bus, bus.StreamConfig{}, func(name string) string { return fmt.Sprint(streamInfo(t, p.bus, name).Config.Replicas) })
	},
	"`Replicas: 3`": func(t *testing.T, p *place, _ string) string {
		return withStream(t, p.bus, bus.StreamConfig{Replicas: 3}, isUsable)
	},
	"replies come on": func(_ *testing.T, p *place, _ string) string {
		inbox := p.bus.Conn().NewInbox()
		random := regexp.MustCompile(`^_INBOX_[A-Za-z0-9]{12}\.`)
		return "`" + strings.SplitAfter(random.ReplaceAllString(inbox, "_INBOX_<random>."), ".")[0] + "…`"
	},
	"processes share a durable with keys": func(t *testing.T, p *place, _ string) string { return sharesKeys(t, p.bus) },
	"`SwitchTo`": func(t *testing.T, p *place, target string) string {
		_, err := p.bus.SwitchTo(t.Context(), target, switchover.DryRun())
		obstacles, _ := errors.AsType[*switchover.ObstacleError](err)
		if err == nil || obstacles != nil && !strings.Contains(err.Error(), "connected to other servers") {
			return "works"
		}
		_, err = p.bus.SwitchTo(t.Context(), switchover.Embedded, switchover.DryRun())
		if strings.Contains(fmt.Sprint(err), "New with WithStoreDir can bring them home") {
			return "home, with `WithStoreDir`"
		}
		return "refused"
	},
	"other programs connect to": func(t *testing.T, p *place, _ string) string {
		switch {
		case p.bus.ClientURL() == "":
			return "–"
		case p.bus.Health(t.Context()).Embedded:
			return "`WithListen`"
		}
		return "the same server"
	},
	rowRestart: nil,
}

func isUsable(string) string { return "works" }

// rows numbers the streams of rows.
var rows atomic.Int64

// withStream calls f with the name of a stream like c, or returns that it was refused.
func withStream(t *testing.T, b *bus.Bus, c bus.StreamConfig, f func(name string) string) string {
	t.Helper()
	number := rows.Add(1)
	c.Name, c.Subjects = fmt.Sprint("ROW", number), []string{fmt.Sprintf("row%d.*", number)}
	st, err := b.Stream(t.Context(), c)
	if err != nil {
		t.Log(err)
		return "refused"
	}
	defer func() { must(t, st.Delete(t.Context())) }()
	return f(st.Name())
}

// sharesKeys finds out whether a durable with keys has an owner.
func sharesKeys(t *testing.T, b *bus.Bus) string {
	t.Helper()
	return withStream(t, b, bus.StreamConfig{}, func(name string) string {
		st, err := b.LookupStream(t.Context(), name)
		must(t, err)
		handle, got := collect[int](1)
		subject := bus.Subject[int](st.Subjects()[0])
		con := consume(t, st, "d", subject, handle, bus.KeyBySubject())
		defer func() { must(t, con.Drain(t.Context())) }()
		storeRange(t, st, subject.At("x"), 0, 1)
		wait(t, got, "the message") // a cluster that has just begun elects leaders
		return map[bool]string{true: "yes", false: "no"}[owns(b)]
	})
}

// modeTests says which test shows a row that modeRows does not.
var modeTests = map[string]string{
	"`PublishTo` returned nil: the message survives":          "TestKilledPublishers",
	"core messages reach":                                     "TestEveryMode",
	"`Consume` takes back at once what a killed process held": "TestRestartAfterKill",
	"elections":                             "TestCluster",
	"the connection of the bus can be lost": "TestSubscriptionsSurviveAReconnect",
	"`WithUser`, `WithToken`, `WithNKey`, `WithCredentials`, `WithTLS`": "TestAccessNeedsAURL",
	"memory, disk and largest message":                                  "TestStoreFull",
	"the program links nats-server":                                     "TestNewLinksTheServer",
}

// modeTable returns the table in docs/modes.md: what each row says of each column.
func modeTable(t *testing.T) map[string]map[string]string {
	t.Helper()
	text, err := os.ReadFile("docs/modes.md")
	must(t, err)
	_, after, found := strings.Cut(string(text), "\n| | memory |")
	if !found {
		t.Fatal("docs/modes.md has no table of modes")
	}
	table, _, _ := strings.Cut("| | memory |"+after, "\n\n")
	all := make(map[string]map[string]string)
	var columns []string
	for row := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case columns == nil:
			columns = cells
		case len(cells) != len(columns):
			t.Fatalf("docs/modes.md: this row has %d cells, want %d: %s", len(cells), len(columns), row)
		case cells[1] != "---":
			all[cells[0]] = make(map[string]string)
			for i, cell := range cells[1:] {
				all[cells[0]][columns[i+1]] = cell
			}
		}
	}
	return all
}

// The table in docs/modes.md has the rows and columns that are tried, and no others.
func TestModeTable(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*_test.go")
	must(t, err)
	var source strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		source.Write(text)
	}
	table := modeTable(t)
	for row, columns := range table {
		test := modeTests[row]
		if _, tried := modeRows[row]; !tried && !strings.Contains(source.String(), "\nfunc "+test+"(t *testing.T) {") {
			t.Errorf("docs/modes.md has %q, and no test shows that (%q)", row, test)
		}
		for _, m := range modes() {
			if columns[m.column] == "" {
				t.Errorf("docs/modes.md says nothing of %q in the column %q", row, m.column)
			}
		}
	}
	for row := range modeRows {
		if table[row] == nil {
			t.Errorf("docs/modes.md does not have %q", row)
		}
	}
	for row := range modeTests {
		if table[row] == nil {
			t.Errorf("docs/modes.md does not have %q", row)
		}
	}
}

// TestMigration goes a part of the way of docs/migration.md, with one store directory: alone, edge,
// alone, cluster of nodes, with the restarts between. Each message is there at the end.
func TestMigration(t *testing.T) {
	needsCluster(t)
	t.Parallel()
	dir := t.TempDir()
	program := func(opts ...bus.Option) (*bus.Bus, *bus.Stream) {
		t.Helper()
		b := ownBus(t, append([]bus.Option{bus.WithTimeout(15 * time.Second)}, opts...)...)
		return b, declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	}
	b, st := program(bus.WithStoreDir(dir))
	storeNumbers(t, st, 1, 10)
	must(t, b.Close())

	b, st = program(bus.WithStoreDir(dir), bus.WithLeaf(bus.Leaf{URL: "nats-leaf://ann:s3cret@" + hubFor(t), Domain: "berlin"}))
	eventually(t, "the link is up", func() bool { return b.Health(t.Context()).Leaf.Up })
	storeNumbers(t, st, 11, 20)
	_, err := b.SwitchTo(t.Context(), newTarget(t).ClientURL())
	asError[*switchover.ObstacleError](t, err, "start the bus without a cluster and without a leaf link")
	must(t, b.Close())

	cluster := startNodes(t).bus
	b, st = program(bus.WithStoreDir(dir))
	declare(t, cluster, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	_, err = b.SwitchTo(t.Context(), cluster.ClientURL(), switchover.DryRun())
	asError[*switchover.ObstacleError](t, err, "the target has a stream with this name", "delete the one at the target if nobody needs it")
	must(t, cluster.JetStream().DeleteStream(t.Context(), "S"))
	switchTo(t, b, cluster.ClientURL(), switchover.MaxWait(15*time.Second))
	storeNumbers(t, st, 21, 30)
	must(t, b.Close())

	for _, opts := range [][]bus.Option{{bus.WithStoreDir(dir)}, {bus.WithURL(cluster.ClientURL())}} {
		b, st = program(opts...)
		if got := storedNumbers(t, st); !slices.Equal(got, oneTo(30)) {
			t.Errorf("the stream has %v", got)
		}
		if n := streamInfo(t, b, "S").Config.Replicas; n != 3 {
			t.Errorf("it has %d replicas", n)
		}
		must(t, b.Close())
	}
}
