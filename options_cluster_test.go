package bus_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/internal/testserver"
)

func TestClusterOptions(t *testing.T) {
	needsCluster(t)
	t.Parallel()
	good := bus.Cluster{Name: "shop", Node: "n-0", Listen: "127.0.0.1:6222", Peers: []string{"10.0.0.1:6222", "10.0.0.2:6222"}}
	tests := map[string]struct {
		change func(*bus.Cluster)
		opts   []bus.Option
		words  string
	}{
		"no name":         {change: func(n *bus.Cluster) { n.Name = "" }, words: "Name must have"},
		"name with a dot": {change: func(n *bus.Cluster) { n.Name = "a.b" }, words: `"a.b"`},
		"node":            {change: func(n *bus.Cluster) { n.Node = "a b" }, words: "Node must have"},
		"no port":         {change: func(n *bus.Cluster) { n.Listen = "127.0.0.1" }, words: "Listen must be"},
		"port 0":          {change: func(n *bus.Cluster) { n.Listen = "127.0.0.1:0" }, words: "Listen must be"},
		"peer":            {change: func(n *bus.Cluster) { n.Peers[1] = "nats://x:1" }, words: "Peers must be"},
		"too few":         {change: func(n *bus.Cluster) { n.Peers = n.Peers[:1] }, words: "three or more"},
		"two, this one":   {change: func(n *bus.Cluster) { n.Peers[1] = n.Listen }, words: "Peers must name all nodes"},
		"one twice":       {change: func(n *bus.Cluster) { n.Peers[1] = n.Peers[0] }, words: "Peers must name all nodes"},
		"own name":        {change: func(n *bus.Cluster) { n.Listen, n.Peers[1] = "0.0.0.0:6222", "n-0.shop:6222" }, words: "Peers must name all nodes"},
		"open port":       {change: func(n *bus.Cluster) { n.Listen = "0.0.0.0:6222" }, words: "set Cluster.User and Cluster.Password"},
		"no password":     {change: func(n *bus.Cluster) { n.User = "u" }, words: "belong together"},
		"with a URL":      {opts: []bus.Option{bus.WithURL("nats://127.0.0.1:1")}, words: "WithURL names another server"},
		"in memory":       {opts: []bus.Option{bus.WithStoreDir("")}, words: "add WithStoreDir"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := good
			n.Peers = append([]string(nil), good.Peers...)
			if tt.change != nil {
				tt.change(&n)
			}
			dir := t.TempDir()
			_, err := quietBus(append([]bus.Option{bus.WithStoreDir(dir), bus.WithCluster(n)}, tt.opts...)...)
			asError[*bus.OptionError](t, err, tt.words)
			openOn(t, dir) // it is not the directory of the node
		})
	}
}

// needsCluster skips a test on systems where nats-server cannot run a node of a cluster: there
// it panics with an unaligned atomic operation.
func needsCluster(t *testing.T) {
	t.Helper()
	if strconv.IntSize < 64 {
		t.Skip("SKIPPED: nats-server cannot run a node of a cluster on a 32-bit system")
	}
}

// A node that is alone says what it waits for.
func TestLoneNode(t *testing.T) {
	needsCluster(t)
	t.Parallel()
	peers := freeAddresses(t, 3)
	b := openOn(t, t.TempDir(), bus.WithTimeout(500*time.Millisecond), bus.WithCluster(bus.Cluster{Name: "shop", Node: "n-0", Listen: peers[0], Peers: peers}))
	_, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S"})
	isError(t, err, bus.ErrTimeout, "the cluster did not answer", "most of its servers run", "WithTimeout")
	r := b.Health(t.Context())
	if len(r.Problems) != 1 || r.Status != health.Failed {
		t.Fatalf("got %+v", r)
	}
	for _, want := range []string{`a node of cluster "shop" needs most of the nodes`, "connected to no other node", peers[0]} {
		if !strings.Contains(r.Problems[0].Reason, want) {
			t.Errorf("%q does not say %q", r.Problems[0].Reason, want)
		}
	}
}

// A node has a port that nobody asked for, and which lets nobody in.
func TestClusterPortIsClosed(t *testing.T) {
	needsCluster(t)
	t.Parallel()
	var peers []string
	for _, port := range testserver.FreePorts(t, 3) {
		peers = append(peers, fmt.Sprintf("127.0.0.1:%d", port))
	}
	var got *server.Options
	b := ownBus(t, bus.WithStoreDir(t.TempDir()), bus.WithLogger(silent()), bus.WithServerOptions(func(o *server.Options) { got = o }),
		bus.WithCluster(bus.Cluster{Name: "shop", Node: "n-0", Listen: peers[0], Peers: peers}))
	flushRaw(t, b.Conn())
	stranger, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", got.Port), nats.MaxReconnects(0))
	if err == nil {
		stranger.Close()
	}
	isError(t, err, nats.ErrAuthorization)
}

// A cluster deletes streams that it does not know, so a directory that was used alone is
// refused. WithServerOptions cannot set a cluster up by itself.
func TestClusterRefusesStreams(t *testing.T) {
	needsCluster(t)
	t.Parallel()
	dir := t.TempDir()
	b := openOn(t, dir)
	declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
	must(t, b.Close())
	node := bus.WithCluster(bus.Cluster{Name: "shop", Node: "n-0", Listen: "127.0.0.1:6222", Peers: []string{"10.0.0.1:6222", "10.0.0.2:6222"}})
	_, err := quietBus(bus.WithStoreDir(dir), node)
	refused := asError[*bus.StoreError](t, err, "WithCluster", "SwitchTo")
	if refused.Problem != bus.StoreUnmoved || fmt.Sprint(refused.Streams) != "[S]" {
		t.Errorf("%+v", refused)
	}
	_, err = quietBus(bus.WithStoreDir(dir), bus.WithServerOptions(func(o *server.Options) { o.Cluster.Name, o.Cluster.Host, o.Cluster.Port = "shop", "127.0.0.1", -1 }))
	asError[*bus.StartError](t, err, "use WithCluster")
	if _, err := openOn(t, dir).LookupStream(t.Context(), "S"); err != nil {
		t.Error(err)
	}
}

// node is a program with a node of a cluster: this test, started again.
type node struct {
	*clusterTest
	*program
	number int
	said   chan struct{} // closed when its output has ended
}

// clusterTest is what the nodes of a cluster said.
type clusterTest struct {
	t    *testing.T
	dirs [3]string
	env  []string

	mu      sync.Mutex
	stored  map[string]int // identifiers that PublishTo returned nil for, and how often
	handled map[string]int
	found   map[string]int // in the stream, at the end
	latest  time.Time      // of an entry in stored
	gap     time.Duration  // the longest time without one
	counts  [3]int         // of stored, by node
	idle    int            // nodes that store nothing any more
}

// TestCluster runs three programs that each embed a node of one cluster. They start in any
// order. One after the other is restarted, and one is killed and restarted, while all of them
// store and handle messages. Then that one loses its directory, and as soon as a new one is in its
// place, another node is killed and restarted. Nothing that was acknowledged is lost.
func TestCluster(t *testing.T) {
	needsCluster(t)
	if dir := victimDir(t); dir != "" {
		runNode(t, dir)
		return
	}
	t.Parallel()
	c := &clusterTest{t: t, stored: make(map[string]int), handled: make(map[string]int), found: make(map[string]int)}
	c.env = []string{"BUS_TEST_PEERS=" + strings.Join(freeAddresses(t, 3), ",")}
	var nodes [3]*node
	for _, i := range []int{2, 0, 1} {
		c.dirs[i] = t.TempDir()
		nodes[i] = c.start(i)
	}
	c.awaitProgress(0, 1, 2)
	c.resetGap()
	for i := range nodes {
		nodes[i].stop()
		nodes[i] = c.start(i)
		c.awaitProgress(0, 1, 2)
	}
	t.Logf("restarted one by one: the longest time without an acknowledgement is %v", c.resetGap())
	nodes[1].kill()
	c.awaitProgress(0, 2)
	nodes[1] = c.start(1)
	c.awaitProgress(0, 1, 2)
	t.Logf("one node killed: the longest time without an acknowledgement is %v", c.resetGap())
	nodes[1].kill()
	c.dirs[1] = t.TempDir()
	c.awaitProgress(0, 2)
	nodes[1] = c.start(1)
	c.awaitProgress(1)
	t.Logf("one node lost: the longest time without an acknowledgement is %v", c.resetGap())
	nodes[0].kill() // the new node may still be getting the data
	nodes[0] = c.start(0)
	c.awaitProgress(0, 1, 2)
	t.Logf("another node killed: the longest time without an acknowledgement is %v", c.resetGap())
	for _, n := range nodes {
		n.order("finish")
	}
	c.await("the nodes store nothing any more", func() bool { return c.idle == 3 })
	nodes[0].order("list")
	for _, n := range nodes {
		n.stop()
	}
	c.mustBeComplete()
}

// start starts a node, and notes what it says.
func (c *clusterTest) start(number int) *node {
	c.t.Helper()
	n := &node{clusterTest: c, number: number, said: make(chan struct{})}
	// It takes orders from its standard input, and ends with it.
	n.program = launch(c.t, again(c.t, append(c.env, envDir+"="+c.dirs[number], "BUS_TEST_NODE="+strconv.Itoa(number))...))
	c.t.Cleanup(n.end)
	go func() {
		defer close(n.said)
		for n.lines.Scan() {
			c.note(number, n.lines.Text())
		}
	}()
	return n
}

// note notes a line of a node.
func (c *clusterTest) note(number int, line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what, id, _ := strings.Cut(line, " ")
	switch what {
	case "stored":
		c.stored[id]++
		c.counts[number]++
		if !c.latest.IsZero() {
			c.gap = max(c.gap, time.Since(c.latest))
		}
		c.latest = time.Now()
	case "handled":
		c.handled[id]++
	case "found":
		c.found[id]++
	case "state":
		c.t.Logf("node %d %s", number, id)
	case "idle":
		c.idle++
	case "error":
		c.t.Errorf("node %d: %s", number, id)
	}
}

// resetGap returns the longest time without an acknowledgement since the last call.
func (c *clusterTest) resetGap() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	gap := c.gap
	c.gap, c.latest = 0, time.Now()
	return gap.Round(time.Millisecond)
}

// awaitProgress waits until each of these nodes has stored some more messages.
func (c *clusterTest) awaitProgress(nodes ...int) {
	c.t.Helper()
	c.mu.Lock()
	before := c.counts
	c.mu.Unlock()
	for _, i := range nodes {
		c.await(fmt.Sprintf("node %d stores messages", i), func() bool { return c.counts[i] >= before[i]+10 })
	}
}

// await waits for something that the nodes say.
func (c *clusterTest) await(what string, cond func() bool) {
	c.t.Helper()
	limit := time.After(time.Minute)
	for {
		c.mu.Lock()
		done := cond()
		c.mu.Unlock()
		if done {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-limit:
			c.t.Fatalf("did not happen: %s", what)
		}
	}
}

// order tells the node something.
func (n *node) order(what string) {
	n.t.Helper()
	must(n.t, second(fmt.Fprintln(n.stdin, what)))
}

// stop has the program end in order.
func (n *node) stop() {
	n.t.Helper()
	must(n.t, n.stdin.Close())
	<-n.said
	if err := n.cmd.Wait(); err != nil {
		n.t.Fatalf("node %d: %v\n%s", n.number, err, n.log.String())
	}
}

// kill kills the program and waits for its end.
func (n *node) kill() {
	n.t.Helper()
	must(n.t, n.cmd.Process.Kill())
	<-n.said
	_ = n.cmd.Wait() // it was killed
}

// mustBeComplete makes sure that each acknowledged message was stored once and handled.
func (c *clusterTest) mustBeComplete() {
	c.t.Helper()
	c.t.Logf("%d messages were acknowledged, %d are in the stream, %d were handled", len(c.stored), len(c.found), len(c.handled))
	if len(c.found) == 0 {
		c.t.Error("the node listed nothing")
	}
	for id := range c.stored {
		if c.found[id] != 1 {
			c.t.Errorf("%s was acknowledged, and is in the stream %d times", id, c.found[id])
		}
		if c.handled[id] == 0 {
			c.t.Errorf("%s was never handled", id)
		}
	}
}

// runNode is the program with a node.
func runNode(t *testing.T, dir string) {
	peers := strings.Split(os.Getenv("BUS_TEST_PEERS"), ",")
	number, err := strconv.Atoi(os.Getenv("BUS_TEST_NODE"))
	must(t, err)
	b, err := quietBus(bus.WithStoreDir(dir), bus.WithSync(bus.SyncEvery(time.Minute)),
		bus.WithCluster(bus.Cluster{Name: "test", Node: "n-" + strconv.Itoa(number), Listen: peers[number], Peers: peers, User: "node", Password: "s3cret"}))
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	say("state started")
	st, err := b.Stream(ctx, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	must(t, err)
	say("state has the stream")
	consumer, err := bus.Consume(ctx, st, "c", "s.*", func(_ context.Context, m *bus.Msg[string]) error {
		say("handled %s", m.Data)
		return nil
	}, bus.KeyBySubject())
	must(t, err)
	say("state consumes")
	orders := make(chan string)
	go func() {
		defer close(orders)
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			orders <- lines.Text()
		}
	}()
	prefix := fmt.Sprintf("%d-%d-", number, os.Getpid())
	storing := time.NewTicker(5 * time.Millisecond)
	defer storing.Stop()
	for n := 0; ; n++ {
		select {
		case what, ok := <-orders:
			switch what {
			case "finish":
				storing.Stop()
				say("idle")
			case "list":
				listStream(ctx, st, consumer)
			}
			if ok {
				continue
			}
			if err := b.Close(); err != nil {
				say("error %v", err)
			}
			return
		case <-storing.C:
			storeAt(ctx, st, n, prefix+strconv.Itoa(n))
		}
	}
}

// storeAt stores one message, and says so.
func storeAt(ctx context.Context, st *bus.Stream, n int, id string) {
	subject := bus.Subject[string]("s.*").At(strconv.Itoa(n % 3))
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if _, err := bus.PublishTo(ctx, st, subject, id, bus.MsgID(id)); err != nil {
		say("error %s: %v", id, err)
		return
	}
	say("stored %s", id)
}

// listStream waits until everything is handled, and lists the stream.
func listStream(ctx context.Context, st *bus.Stream, c *bus.Consumer) {
	for {
		lag, err := c.Lag(ctx)
		if err == nil && lag.Waiting+lag.Unfinished == 0 {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			say("error %+v, %v", lag, err)
			return
		}
	}
	for m, err := range bus.Replay(ctx, st, bus.Subject[string]("s.*")) {
		if err != nil {
			say("error %v", err)
			return
		}
		say("found %s", m.Data)
	}
}
