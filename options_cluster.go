package bus

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/omnibus-go/bus/internal/link"
)

// Cluster says of which cluster the embedded server is a node. All nodes give the same Name,
// User and Password, and can give the same Peers.
type Cluster struct {
	// Name is the name of the cluster: letters, digits, "-" and "_", at most 128.
	Name string
	// Node is the name of this node, unique in the cluster. It belongs to the store directory
	// and must stay the same. A node that was lost with its directory is replaced by one with
	// the same name and an empty directory. The default is the name of the host.
	Node string
	// Listen is where the other nodes connect to, "10.0.0.1:6222" or "0.0.0.0:6222".
	Listen string
	// Peers are the addresses of all nodes, "10.0.0.2:6222". That of this node may be among
	// them. New refuses fewer than three nodes: of two, one stops when the other does.
	Peers []string
	// User and Password are what the nodes show each other. Without them, and without a TLS
	// that asks for certificates, New refuses a Listen that other machines reach.
	User, Password string
	// TLS secures the connections between the nodes; nil for none.
	TLS *tls.Config
}

// WithCluster makes the embedded server a node of a cluster of three or more, each in a
// program of its own. It needs WithStoreDir. Streams then have three copies unless
// StreamConfig.Replicas says otherwise, so each of them survives the loss of a node.
//
// New does not wait for the other nodes. Until most of them run, calls that need a stream
// wait, for at most their context or WithTimeout, and Health fails. Restart one node at a
// time, and go on when its Health is healthy. On 32-bit systems New refuses the option, because
// nats-server cannot run a node there.
//
// A store directory that was used without a cluster and holds streams is refused with a
// *StoreError, because a cluster deletes streams that it does not know.
func WithCluster(n Cluster) Option {
	return option(func(c *config) {
		n.Node = cmp.Or(n.Node, hostName())
		c.checkNode(&n)
		c.server.cluster = &n
	})
}

// hostName returns the name of this machine or container, or "".
func hostName() string {
	name, _ := os.Hostname()
	return strings.ReplaceAll(name, ".", "-")
}

// checkNode records what cannot be used in n.
func (c *config) checkNode(n *Cluster) {
	for _, name := range []struct{ field, value string }{{"Name", n.Name}, {"Node", n.Node}} {
		if !nameRule.MatchString(name.value) {
			c.badField("WithCluster", name.field, strconv.Quote(name.value), `must have 1 to 128 letters, digits, "-" or "_"`)
		}
	}
	if _, port, err := splitListen(n.Listen); err != nil || port == 0 {
		c.badField("WithCluster", "Listen", strconv.Quote(n.Listen), `must be host:port with a port above 0, such as "0.0.0.0:6222"`)
	}
	for _, peer := range n.Peers {
		if host, port, err := splitListen(peer); err != nil || host == "" || port == 0 {
			c.badField("WithCluster", "Peers", strconv.Quote(peer), `must be host:port, such as "10.0.0.2:6222"`)
		}
	}
	if n.countPeers() < 3 {
		c.badField("WithCluster", "Peers", fmt.Sprint(n.Peers), "must name all nodes; a cluster has three or more, since one of two stops when the other does")
	}
	if (n.User == "") != (n.Password == "") {
		field := "Password"
		if n.User == "" {
			field = "User"
		}
		c.badField("WithCluster", field, `""`, "is empty; the user and the password belong together")
	}
}

// countPeers returns how many nodes Peers names, with this one, as far as their addresses tell.
func (n *Cluster) countPeers() int {
	listen, port, _ := splitListen(n.Listen)
	isOwn := func(peer string) bool {
		host, p, err := splitListen(peer)
		return err == nil && p == port && n.isOwnHost(host, listen)
	}
	peers := slices.Compact(slices.Sorted(slices.Values(n.Peers)))
	if slices.ContainsFunc(peers, isOwn) {
		return len(peers)
	}
	return len(peers) + 1
}

// isOwnHost reports whether a host is this machine: by the address of Listen, the name of the
// node, that of the machine, or an address of it. It looks up no names.
func (n *Cluster) isOwnHost(host, listen string) bool {
	first, _, _ := strings.Cut(host, ".")
	if name, _ := os.Hostname(); host == listen || host == name || first == name || first == n.Node {
		return true
	}
	ip := net.ParseIP(host)
	if ip == nil {
		return host == "localhost"
	}
	addresses, _ := net.InterfaceAddrs()
	return slices.ContainsFunc(addresses, func(a net.Addr) bool {
		own, ok := a.(*net.IPNet)
		return ok && own.IP.Equal(ip)
	})
}

// Leaf says to which server the embedded one is linked.
type Leaf struct {
	// URL is where that server accepts leaf nodes: "nats-leaf://user:password@hub:7422", or
	// several URLs of one cluster separated by commas. "tls://hub:7422" is with TLS, and
	// "ws://hub:8080" or "wss://hub:443" a WebSocket. An empty URL means no link, so that the
	// value can come straight from a configuration.
	URL string
	// Credentials is a NATS credentials file; empty for none.
	Credentials string
	// Domain is the JetStream domain of the bus: the name by which streams on the other side
	// can have streams of the bus as sources. It must differ from those of the other side and
	// of other leaves: letters, digits, "-" and "_", at most 128. The default is a random name
	// that belongs to the store directory.
	Domain string
}

// WithLeaf links the embedded server to another one, as a leaf node. The bus works while the
// link is down, and streams stay on this side. Messages of Publish cross the link only while
// it is up. A stream on the other side that has one of the bus's as a source gets what it
// missed when the link is back. Events say that the link is down or up, and Health, with the
// reason. A Domain that another edge of the same hub has too is an event.DomainTaken at both.
func WithLeaf(l Leaf) Option {
	return option(func(c *config) {
		c.server.leaf = nil
		if l.URL == "" {
			return
		}
		if l.Domain != "" && !nameRule.MatchString(l.Domain) {
			c.badField("WithLeaf", "Domain", strconv.Quote(l.Domain), `must have 1 to 128 letters, digits, "-" or "_"`)
		}
		if l.Credentials != "" {
			c.checkLeafFile(l.Credentials)
		}
		c.server.leaf = &leafConfig{urls: c.leafURLs(l.URL), credentials: l.Credentials, domain: l.Domain}
	})
}

// checkLeafFile checks the credentials file of a leaf link.
func (c *config) checkLeafFile(name string) {
	if env := c.env; env != "" {
		c.env = env + "_CREDENTIALS"
		defer func() { c.env = env }()
	}
	c.checkSecretFile("WithLeaf", name)
}

// leafConfig is a checked Leaf.
type leafConfig struct {
	urls        []*url.URL
	credentials string // a file; empty: none
	domain      string // empty: that of the store directory
}

// leafURLs reads a list of URLs, and records what is wrong with it. It names the list without
// passwords.
func (c *config) leafURLs(list string) (urls []*url.URL) {
	for part := range strings.SplitSeq(list, ",") {
		u, err := url.Parse(strings.TrimSpace(part))
		if reason := leafURLProblem(u, err); reason != "" {
			c.bad("WithLeaf", strconv.Quote(link.Redact(list)), reason)
			return nil
		}
		urls = append(urls, u)
	}
	return urls
}

// leafURLProblem says what is wrong with the URL of a hub, which url.Parse has returned with err; "" for nothing.
func leafURLProblem(u *url.URL, err error) string {
	const escape = "in a user name or password escape what is no letter or digit (url.PathEscape, and %2C for a comma), or use a credentials file"
	switch {
	case err != nil || u.Scheme == "" || u.Host == "":
		return `is not "nats-leaf://host:7422"; ` + escape
	case slices.Contains(leafSchemes, u.Scheme):
		return ""
	case slices.Contains(otherSchemes, u.Scheme):
		return fmt.Sprintf("has the scheme %q; use nats-leaf, tls, nats, ws or wss", u.Scheme)
	}
	return "has an unknown scheme; use nats-leaf, tls, nats, ws or wss; " + escape
}

// leafSchemes are the schemes that nats-server knows in the URL of a hub. It would take any other one for nats-leaf.
var leafSchemes = []string{"nats-leaf", "tls", "nats", "ws", "wss"}

// checkModes checks options of which one replaces the other.
func (c *config) checkModes() {
	s := &c.server
	elsewhere := fmt.Sprintf("it is for the embedded server, and %s names another server; give one of the two", c.named("WithURL", "URL"))
	if s.followed {
		elsewhere = fmt.Sprintf("it is for the embedded server, and SwitchTo has moved the streams of store directory %q to %s, where New connects to; leave the option out, or give another directory in %s",
			s.storeDir, link.Redact(s.url), c.named("WithStoreDir", "STORE_DIR"))
	}
	if s.leaf != nil && s.url != "" {
		c.bad(c.named("WithLeaf", "LEAF"), link.Redact(s.leaf.urls[0].String()), elsewhere)
	}
	if s.cluster == nil {
		return
	}
	if strconv.IntSize < 64 {
		c.bad("WithCluster", s.cluster.Name, "nats-server cannot run a node of a cluster on a 32-bit system; use a 64-bit one, or WithURL")
	}
	if s.url != "" {
		c.bad(c.named("WithCluster", "CLUSTER"), s.cluster.Name, elsewhere)
	}
	if s.storeDir == "" {
		c.bad(c.named("WithCluster", "CLUSTER"), s.cluster.Name, "a node keeps its streams on disk; add "+c.named("WithStoreDir", "STORE_DIR"))
	}
}

// named returns the name of an option, with its variable if FromEnv is among the options.
func (c *config) named(option, variable string) string {
	if !c.readsEnv {
		return option
	}
	return option + " (" + envPrefix + variable + ")"
}
