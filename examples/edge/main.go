// Command edge shows two edge sites that work offline, and a hub that collects what they store:
//
//	go run ./examples/edge
//
// Each edge is a bus with its own embedded server and a stream ORDERS, linked to the hub as a leaf
// node. The hub has a stream ALL whose sources are the two. The program cuts the links, stores
// messages at the edges, restores the links, and shows how the hub catches up. All of it runs in
// this process. The exit code is 1 if the hub does not get each message once and in order.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
)

// Order is what the edges store.
type Order struct {
	Edge   string `json:"edge"`
	Number int    `json:"number"`
}

// orderPlaced is the subject of an order; the wildcard is the edge.
const orderPlaced bus.Subject[Order] = "shop.*.orders.placed.v1"

// edges are the names of the sites. Each is the JetStream domain of its server.
var edges = []string{"berlin", "osaka"}

func main() {
	if err := run(os.Stdout, 25_000); err != nil {
		fmt.Fprintln(os.Stderr, "edge:", err)
		os.Exit(1)
	}
}

// timeLimit limits how long the whole program may take. It needs much less.
const timeLimit = 2 * time.Minute

// run shows everything, with so many messages at each edge while the links are cut.
func run(w io.Writer, offline int) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit)
	defer cancel()
	hub, err := startHub(ctx)
	if err != nil {
		return err
	}
	defer func() { err = closeAll(err, hub.bus) }()
	wire, err := newWire(hub.leaves)
	if err != nil {
		return err
	}
	defer wire.close()
	sites := make([]*site, len(edges))
	for i, name := range edges {
		if sites[i], err = startSite(ctx, name, wire.address()); err != nil {
			return err
		}
		defer func() { err = closeAll(err, sites[i].bus) }()
	}

	const online = 1000
	if err := storeAll(ctx, sites, online); err != nil {
		return err
	}
	took, err := hub.await(ctx, len(sites)*online)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "linked:   each edge stored %d orders; the hub had all %d after %v\n", online, len(sites)*online, took)

	wire.cut()
	if err := storeAll(ctx, sites, offline); err != nil {
		return err
	}
	has, err := hub.count(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "cut:      each edge stored %d more; the hub has %d\n", offline, has)

	wire.restore()
	if took, err = hub.await(ctx, len(sites)*(online+offline)); err != nil {
		return err
	}
	fmt.Fprintf(w, "restored: the hub caught up after %v\n", took)
	if err := hub.check(ctx, online+offline); err != nil {
		return err
	}
	fmt.Fprintf(w, "the hub has %d orders: each one once, those of each edge in order\n", len(sites)*(online+offline))
	return nil
}

// closeAll closes a bus, and returns err or else the error of that.
func closeAll(err error, b *bus.Bus) error {
	if failed := b.Close(); err == nil {
		return failed
	}
	return err
}

// hub collects the orders of all edges.
type hub struct {
	bus    *bus.Bus
	all    *bus.Stream
	leaves string // the address for leaf nodes
}

// startHub starts a bus with a port for leaf nodes, and a stream that has those of the edges as
// sources.
func startHub(ctx context.Context) (*hub, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	b, err := bus.New(quiet(), bus.WithServerOptions(func(o *server.Options) {
		o.LeafNode.Host, o.LeafNode.Port = "127.0.0.1", port
		o.LeafNode.NoAdvertise = true // or the edges would learn the address and avoid our wire
	}))
	if err != nil {
		return nil, err
	}
	all, err := b.Stream(ctx, bus.StreamConfig{Name: "ALL", Raw: func(c *jetstream.StreamConfig) {
		c.Sources = nil // c is what the server has: assign, or a second start would add them once more
		for _, edge := range edges {
			c.Sources = append(c.Sources, &jetstream.StreamSource{Name: "ORDERS", Domain: edge})
		}
	}})
	if err != nil {
		return nil, closeAll(err, b)
	}
	return &hub{bus: b, all: all, leaves: fmt.Sprintf("127.0.0.1:%d", port)}, nil
}

// count returns how many orders the hub has.
func (h *hub) count(ctx context.Context) (int, error) {
	st, err := h.bus.JetStream().Stream(ctx, h.all.Name())
	if err != nil {
		return 0, err
	}
	return int(st.CachedInfo().State.Msgs), nil
}

// await waits until the hub has n orders, and returns how long that took.
func (h *hub) await(ctx context.Context, n int) (time.Duration, error) {
	began := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		has, err := h.count(ctx)
		if err != nil {
			return 0, err
		}
		if has >= n {
			return time.Since(began).Round(10 * time.Millisecond), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("the hub has %d of %d orders: %w", has, n, ctx.Err())
		}
	}
}

// check reads the hub's stream: each edge has its orders 1 to n in it, in order.
func (h *hub) check(ctx context.Context, n int) error {
	latest := make(map[string]int)
	for m, err := range bus.Replay(ctx, h.all, orderPlaced) {
		if err != nil {
			return err
		}
		if o := m.Data; o.Number != latest[o.Edge]+1 {
			return fmt.Errorf("order %d of %s follows order %d", o.Number, o.Edge, latest[o.Edge])
		}
		latest[m.Data.Edge]++
	}
	for _, edge := range edges {
		if latest[edge] != n {
			return fmt.Errorf("the hub has %d orders of %s, want %d", latest[edge], edge, n)
		}
	}
	return nil
}

// site is an edge with its own server.
type site struct {
	bus    *bus.Bus
	orders *bus.Stream
	name   string
	stored int
}

// startSite starts a bus that is linked to the hub at the address. Its streams are in memory, which
// keeps the example short; a real edge uses WithStoreDir.
func startSite(ctx context.Context, name, hub string) (*site, error) {
	b, err := bus.New(quiet(), bus.WithLeaf(bus.Leaf{URL: "nats-leaf://" + hub, Domain: name}))
	if err != nil {
		return nil, err
	}
	orders, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: []string{orderPlaced.At(name).String()}})
	if err != nil {
		return nil, closeAll(err, b)
	}
	return &site{bus: b, orders: orders, name: name}, nil
}

// storeAll has each edge store n more orders.
func storeAll(ctx context.Context, sites []*site, n int) error {
	for _, s := range sites {
		var latest *bus.Future
		for range n {
			var err error
			s.stored++
			if latest, err = bus.PublishToAsync(ctx, s.orders, orderPlaced.At(s.name), Order{Edge: s.name, Number: s.stored}); err != nil {
				return err
			}
		}
		if _, err := latest.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// quiet logs nothing: the server logs each link that is lost.
func quiet() bus.Option { return bus.WithLogger(hclog.NewNullLogger()) }
