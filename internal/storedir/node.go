package storedir

import (
	"fmt"
	"strings"
)

// Node says which node of which cluster a server is. The zero value is a server that is in
// no cluster.
type Node struct {
	Cluster string // one subject token
	Name    string // unique in the cluster; without blanks
}

// String returns the node as a text for an error.
func (n Node) String() string {
	if n == (Node{}) {
		return "of a server that is in no cluster"
	}
	return fmt.Sprintf("of node %q of cluster %q", n.Name, n.Cluster)
}

// NodeError is the error of [OpenNode] for the directory of another node, or of a server that
// is in no cluster.
type NodeError struct {
	Dir     string   // the absolute path of the directory
	Found   Node     // whose directory it is
	Want    Node     // who opens it
	Streams []string // that it holds, sorted
}

// Error implements error.
func (e *NodeError) Error() string {
	return fmt.Sprintf("bus: store directory %q is the directory %v, not %v: %s", e.Dir, e.Found, e.Want, e.advice())
}

// advice returns what the user can do.
func (e *NodeError) advice() string {
	const danger = "a cluster deletes the streams that it does not know"
	switch {
	case e.Found == (Node{}):
		return fmt.Sprintf("it holds the streams %s, and %s; give the node an empty directory, start the program on this directory without WithCluster, and move its streams to the cluster with SwitchTo",
			strings.Join(e.Streams, ", "), danger)
	case e.Want == (Node{}):
		return "start it with WithCluster, or use another directory"
	}
	return "use the directory of this node, or an empty one; " + danger
}

// OpenNode is [Open] for a node of a cluster. The first [Dir.Claim] of a directory without
// streams makes it the directory of that node, for ever. It also fails with a [*NodeError]:
// a cluster deletes streams that it does not know.
func OpenNode(dir string, node Node) (*Dir, error) { return open(dir, node, "") }

// Claim stores that the directory belongs to the node of [OpenNode]. It is called just before
// the server starts: a start that is refused earlier leaves the directory to anybody.
func (d *Dir) Claim() error {
	if !d.unclaimed {
		return nil
	}
	d.unclaimed = false
	return writeJSON(d.path, identityName, d.identity)
}

// checkNode makes sure that the directory is that of node, or can become that.
func (d *Dir) checkNode(node Node) error {
	found := d.identity.node()
	if found == node {
		return nil
	}
	streams, err := Streams(d.path)
	if err != nil {
		return err
	}
	if found != (Node{}) || len(streams) > 0 {
		return &NodeError{Dir: d.path, Found: found, Want: node, Streams: streams}
	}
	d.identity, d.unclaimed = d.identity.as(node), true
	return nil
}

// node returns the node that a directory belongs to.
func (id Identity) node() Node {
	if id.Cluster == "" {
		return Node{}
	}
	return Node{Cluster: id.Cluster, Name: id.ServerName}
}

// as returns the identity of the directory of node. All nodes of a cluster have one domain,
// because a stream can be on any of them.
func (id Identity) as(node Node) Identity {
	id.Format = max(id.Format, FormatMoved)
	id.Cluster, id.ServerName, id.Domain = node.Cluster, node.Name, node.Cluster
	return id
}
