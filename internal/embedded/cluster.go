package embedded

import (
	"cmp"
	"crypto/tls"
	"errors"
	"net/url"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus/internal/permissions"
	"github.com/omnibus-go/bus/internal/storedir"
)

// Cluster says of which cluster the server is a node.
type Cluster struct {
	Name     string     // the same for all nodes
	Node     string     // unique in the cluster; it stays the same for ever
	Listen   Address    // where the other nodes connect to
	Peers    []*url.URL // the other nodes; the server recognises itself among them
	User     string     // that nodes show each other; empty: none
	Password string
	TLS      *tls.Config // nil: none
}

// reconnectReports is of how many failed tries to reach a lost server one is logged. There is
// about one a second.
const reconnectReports = 60

// node returns the node for the store directory. That of no cluster is the zero value.
func (c *Cluster) node() storedir.Node {
	if c == nil {
		return storedir.Node{}
	}
	return storedir.Node{Cluster: c.Name, Name: c.Node}
}

// set sets the options of a node. A node without a port for clients never connects to the
// others, and its Shutdown never returns; so it gets one on the loopback interface, which nobody
// but the bus may use (see letBusIn).
func (c *Cluster) set(o *server.Options) {
	if c == nil {
		return
	}
	o.Cluster.Name, o.Cluster.Host, o.Cluster.Port = c.Name, c.Listen.Host, c.Listen.Port
	o.Cluster.Username, o.Cluster.Password = c.User, c.Password
	o.Cluster.TLSConfig = c.TLS
	o.Routes = c.Peers
	o.ReconnectErrorReports = reconnectReports
	if o.DontListen {
		o.DontListen, o.Host, o.Port = false, loopback, server.RANDOM_PORT
	}
}

// checkCluster refuses a cluster that only Customize set up: its nodes would have different
// domains, and delete the streams of a directory that was used alone.
func (c *Config) checkCluster(o *server.Options) error {
	if o.Cluster.Port != 0 && c.Cluster == nil {
		return errors.New("WithServerOptions sets up a cluster; use WithCluster, which also protects the streams of the store directory")
	}
	return nil
}

// Leaf says to which server this one is linked.
type Leaf struct {
	URLs        []*url.URL // of one server or cluster
	Credentials string     // a NATS credentials file; empty: none
	Domain      string     // the JetStream domain; empty: that of the store directory
}

// domain returns the JetStream domain of a server whose store has the domain stored.
func (l *Leaf) domain(stored string) string {
	if l == nil {
		return stored
	}
	return cmp.Or(l.Domain, stored)
}

// set sets the options of a linked server.
func (l *Leaf) set(o *server.Options) {
	if l == nil {
		return
	}
	o.ReconnectErrorReports = reconnectReports
	o.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: l.URLs, Credentials: l.Credentials, DenyExports: ownSubjects, DenyImports: ownSubjects}}
}

// privatePort reports whether the port for clients is there only because a node needs one. No
// program has asked for it, or for another port by which clients come.
func (c *Config) privatePort(o *server.Options) bool {
	asked := o.Host != loopback || o.Port != server.RANDOM_PORT || o.Websocket.Port != 0 || o.MQTT.Port != 0 || o.LeafNode.Port != 0
	return c.Cluster != nil && c.Listen == (Address{}) && !asked && !asksClients(o)
}

// loopback is where the port of a node without WithListen is.
const loopback = "127.0.0.1"

// ownSubjects do not cross a leaf link: an acknowledgement names only stream, durable and
// sequence, so it would count for a stream of that name on the other side, too, and so would the
// side streams of this library. Sources need neither.
var ownSubjects = []string{"$JS.ACK.>", permissions.Own}
