package bus_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/internal/testserver"
)

// edgesVariable names the environment variable for the long form of TestEdges. Its value is how
// many messages each edge stores in an outage. Then an outage takes longer than the servers
// remember anything of the link, and the hub is killed.
const edgesVariable = "OMNIBUS_TEST_EDGE_MESSAGES"

// longOutage is longer than the 10 s after which a hub takes the stream of an edge for lost.
const longOutage = 70 * time.Second

// edgeOrder is the subject of what edges store; the wildcard is the edge.
const edgeOrder bus.Subject[int] = "shop.*.orders"

// edgesTest is a hub and two edges whose links can be cut.
type edgesTest struct {
	t     *testing.T
	hub   *serverProcess
	link  *relay
	all   *bus.Stream // at the hub
	edges map[string]*bus.Stream
	each  int // messages of each edge
}

// Two edges with equal names of streams store messages while they are linked, and while the links
// are down. The hub has each of them once, in order per edge, and does not mix them up.
func TestEdges(t *testing.T) {
	t.Parallel()
	long, err := strconv.Atoi(os.Getenv(edgesVariable))
	offline, outage := 1000, time.Duration(0)
	if err == nil {
		offline, outage = long, longOutage
	}
	e := newEdges(t)
	e.store(200)
	e.awaitHub("linked")
	e.link.cut(true)
	e.store(offline)
	handle, got := collect[int](e.each)
	for _, st := range e.edges { // they work offline
		con := consume(t, st, "offline", edgeOrder, handle)
		for range e.each {
			receive(t, got)
		}
		must(t, con.Drain(t.Context()))
	}
	if n := streamInfo(t, e.hubBus(), "ALL").State.Msgs; n != 400 {
		t.Errorf("while the links are down the hub has %d messages", n)
	}
	time.Sleep(outage)
	e.link.redirect(e.leaves())
	e.awaitHub("restored")
	if err != nil {
		return
	}
	e.hub.end()
	e.store(offline)
	e.hub.start()
	e.awaitHub("the hub was killed and started again")
}

// newEdges starts a hub in a process of its own, and two edges.
func newEdges(t *testing.T) *edgesTest {
	e := &edgesTest{t: t, edges: make(map[string]*bus.Stream)}
	hubs, url := startServers(t, 1, serverConfig{LeafPort: testserver.FreePorts(t, 1)[0]})
	e.hub = hubs[0]
	e.link = newRelay(t, e.leaves())
	for _, edge := range []string{"berlin", "osaka"} {
		leaf := bus.Leaf{URL: "nats-leaf://" + e.link.listener.Addr().String(), Domain: edge}
		p := startProgram(t, bus.WithStoreDir(t.TempDir()), bus.WithSync(bus.SyncEvery(time.Minute)), bus.WithLeaf(leaf))
		e.edges[edge] = declare(t, p.bus, bus.StreamConfig{Name: "ORDERS", Subjects: []string{edgeOrder.At(edge).String()}})
	}
	hub := joinProgram(t, url)
	for edge := range e.edges { // a hub that asks for a stream before the link is up asks again after 40 s
		js, err := jetstream.NewWithDomain(hub.Conn(), edge)
		must(t, err)
		eventually(t, "the edge is linked", func() bool { return second(js.Stream(t.Context(), "ORDERS")) == nil })
	}
	e.all = declare(t, hub, bus.StreamConfig{Name: "ALL", Raw: func(c *jetstream.StreamConfig) {
		for _, edge := range []string{"berlin", "osaka"} {
			c.Sources = append(c.Sources, &jetstream.StreamSource{Name: "ORDERS", Domain: edge})
		}
	}})
	return e
}

// leaves is where the hub accepts leaf nodes.
func (e *edgesTest) leaves() string { return fmt.Sprintf("127.0.0.1:%d", e.hub.c.LeafPort) }

// hubBus returns another program at the hub.
func (e *edgesTest) hubBus() *bus.Bus { return joinProgram(e.t, e.hub.url()) }

// store has each edge store n more numbers.
func (e *edgesTest) store(n int) {
	e.t.Helper()
	for edge, st := range e.edges {
		var futures []*bus.Future
		for i := range n {
			f, err := bus.PublishToAsync(e.t.Context(), st, edgeOrder.At(edge), e.each+i)
			must(e.t, err)
			futures = append(futures, f)
		}
		for _, f := range futures {
			must(e.t, second(f.Wait(e.t.Context())))
		}
	}
	e.each += n
}

// awaitHub waits until the hub has everything, and looks at it.
func (e *edgesTest) awaitHub(when string) {
	e.t.Helper()
	began, b := time.Now(), e.hubBus()
	within(e.t, 2*time.Minute, when+": the hub has all", func() bool {
		st, err := b.JetStream().Stream(e.t.Context(), "ALL")
		return err == nil && st.CachedInfo().State.Msgs >= uint64(2*e.each)
	})
	e.t.Logf("%s: the hub had all %d messages after %v", when, 2*e.each, time.Since(began).Round(time.Millisecond))
	next := make(map[string]int)
	for _, m := range replayed(e.t, e.all, edgeOrder) {
		if next[m.Subject] != m.Data {
			e.t.Fatalf("%s: %s has %d after %d", when, m.Subject, m.Data, next[m.Subject]-1)
		}
		next[m.Subject]++
	}
	for edge := range e.edges {
		if n := next[edgeOrder.At(edge).String()]; n != e.each {
			e.t.Errorf("%s: the hub has %d messages of %s, want %d", when, n, edge, e.each)
		}
	}
	must(e.t, b.Close())
}

// What one edge acknowledges, and what becomes of its failures, is nothing to another edge that
// has a stream and a durable of the same name.
func TestEdgesSettleForThemselves(t *testing.T) {
	t.Parallel()
	e := newEdges(t)
	e.store(5)
	e.awaitHub("linked")
	hangs := make(chan struct{})
	t.Cleanup(func() { close(hangs) })
	held, failed := make(chan int, 10), make(chan int, 10)
	busy, other := e.edges["berlin"], e.edges["osaka"]
	consume(t, busy, "c", edgeOrder, func(_ context.Context, m *bus.Msg[int]) error { held <- m.Data; <-hangs; return nil }, bus.Concurrency(5))
	for range 5 {
		receive(t, held)
	}
	consume(t, other, "c", edgeOrder, func(_ context.Context, m *bus.Msg[int]) error { failed <- m.Data; return bus.Permanent(errNo) })
	for range 5 {
		receive(t, failed)
	}
	eventually(t, "they are dead letters of the other edge", func() bool {
		n, err := other.DeadCount(t.Context(), bus.DeadFilter{})
		must(t, err)
		return n == 5
	})
	if n, err := busy.DeadCount(t.Context(), bus.DeadFilter{}); err != nil || n != 0 {
		t.Errorf("the first edge has %d dead letters, %v", n, err)
	}
	berlin, err := jetstream.NewWithDomain(e.hubBus().Conn(), "berlin")
	must(t, err)
	con, err := berlin.Consumer(t.Context(), "ORDERS", "c")
	must(t, err)
	if n := con.CachedInfo().NumAckPending; n != 5 {
		t.Errorf("%d of 5 messages are unacknowledged at the first edge", n)
	}
}

// hubFor starts a hub, and returns where it accepts leaf nodes with the user ann.
func hubFor(t *testing.T) string {
	t.Helper()
	port := testserver.FreePorts(t, 1)[0]
	external(t, func(o *server.Options) {
		o.LeafNode.Host, o.LeafNode.Port, o.LeafNode.Username, o.LeafNode.Password = "127.0.0.1", port, "ann", "s3cret"
		o.LeafNode.NoAdvertise = true // else an edge knows the way past a relay
		o.ServerName, o.JetStreamDomain = "the-hub", "hub"
	})
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// edgeAt starts an edge, and returns its events.
func edgeAt(t *testing.T, user, address, domain string) (*bus.Bus, <-chan event.Event) {
	t.Helper()
	record, events := recordEvents()
	return ownBus(t, record, bus.WithLeaf(bus.Leaf{URL: "nats-leaf://" + user + "@" + address, Domain: domain})), events
}

// An edge tells whether its link is up, since when, and why not. It is healthy without it.
func TestLeafLink(t *testing.T) {
	t.Parallel()
	r := newRelay(t, hubFor(t))
	b, events := edgeAt(t, "ann:s3cret", r.listener.Addr().String(), "berlin")
	state := func(up bool) health.Link {
		t.Helper()
		h := b.Health(t.Context())
		if h.Status != health.Healthy || h.Leaf == nil || h.Leaf.Up != up || time.Since(h.Leaf.Since) > time.Minute {
			t.Fatalf("got %+v, leaf %v", h, h.Leaf)
		}
		return *h.Leaf
	}
	must(t, awaitEvent(t, events, event.LinkUp).Err)
	if l := state(true); l.Server != "the-hub" || l.Reason != "" || !strings.HasPrefix(l.String(), "the leaf link has been up, to server the-hub, since ") {
		t.Errorf("got %v", l)
	}
	r.cut(true)
	hasText(t, awaitEvent(t, events, event.LinkDown).Err, "the leaf link has been down since ", ": ")
	if l := state(false); l.Server != "" || l.Reason == "" {
		t.Errorf("got %v", l)
	}
	r.redirect(hubFor(t))
	awaitEvent(t, events, event.LinkUp)
	state(true)
	if h := ownBus(t).Health(t.Context()); h.Leaf != nil {
		t.Errorf("a bus without a link has %v", h.Leaf)
	}
}

// An edge that the hub does not let in says so.
func TestLeafLinkThatIsRefused(t *testing.T) {
	t.Parallel()
	b, events := edgeAt(t, "ann:wrong", hubFor(t), "berlin")
	hasText(t, awaitEvent(t, events, event.LinkDown).Err, "Authorization Violation", "user and password in Leaf.URL")
	if l := b.Health(t.Context()).Leaf; l.Up || !strings.Contains(l.String(), "Authorization Violation") || strings.Contains(l.String(), "wrong") {
		t.Errorf("got %v", l)
	}
}

// An edge that connects to the hub's port for clients is told which port it needs.
func TestLeafLinkToThePortForClients(t *testing.T) {
	t.Parallel()
	_, events := edgeAt(t, "ann:s3cret", strings.TrimPrefix(external(t, nil).ClientURL(), "nats://"), "berlin")
	hasText(t, awaitEvent(t, events, event.LinkDown).Err, "Incorrect Port", "leafnodes", "Leaf.URL")
}

// A URL that no leaf link can have is refused, and shows no password.
func TestLeafURL(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"http://ann:s3cret@hub:7422", "nats-leaf://hub:7422,ftp://ann:s3cret@hub:7422", "mqtt://hub"} {
		_, err := quietBus(bus.WithLeaf(bus.Leaf{URL: u}))
		asError[*bus.OptionError](t, err, "WithLeaf", "use nats-leaf, tls, nats, ws or wss")
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v shows the password", u, err)
		}
	}
	for _, u := range []string{"tls://127.0.0.1:1", "nats://127.0.0.1:1", "NATS-LEAF://127.0.0.1:1"} {
		ownBus(t, bus.WithLogger(silent()), bus.WithLeaf(bus.Leaf{URL: u}))
	}
}

// Two edges with one domain are told of each other, and no others.
func TestEdgesWithOneDomain(t *testing.T) {
	t.Parallel()
	hub := hubFor(t)
	first, told := edgeAt(t, "ann:s3cret", hub, "berlin")
	other, toldOther := edgeAt(t, "ann:s3cret", hub, "osaka")
	awaitEvent(t, told, event.LinkUp)
	awaitEvent(t, toldOther, event.LinkUp)
	second, toldSecond := edgeAt(t, "ann:s3cret", hub, "berlin")
	for _, events := range []<-chan event.Event{told, toldSecond} {
		hasText(t, awaitEvent(t, events, event.DomainTaken).Err, `has the JetStream domain "berlin", too`, "Leaf.Domain")
	}
	for b, want := range map[*bus.Bus]health.Status{first: health.Degraded, second: health.Degraded, other: health.Healthy} {
		if h := b.Health(t.Context()); h.Status != want || want == health.Degraded && h.Problems[0].Part != "leaf" {
			t.Errorf("got %+v, want %v", h, want)
		}
	}
}

// The configuration of a hub in docs/modes.md is one that an edge can be linked to.
func TestHubOfTheDocumentation(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/modes.md")
	must(t, err)
	_, config, _ := strings.Cut(string(text), "```text\njetstream {")
	config, _, _ = strings.Cut(config, "```")
	file := filepath.Join(t.TempDir(), "hub.conf")
	must(t, os.WriteFile(file, []byte("jetstream {"+config), 0o600))
	hub, err := server.ProcessConfigFile(file)
	must(t, err)
	port := testserver.FreePorts(t, 1)[0]
	external(t, func(o *server.Options) {
		o.LeafNode, o.LeafNode.Host, o.LeafNode.Port = hub.LeafNode, "127.0.0.1", port
	})
	record, events := recordEvents()
	bustest.New(t, record, bus.WithLogger(silent()), bus.WithLeaf(bus.Leaf{URL: fmt.Sprintf("nats-leaf://berlin:%s@127.0.0.1:%d", url.PathEscape("…"), port), Domain: "berlin"}))
	awaitEvent(t, events, event.LinkUp)
}
