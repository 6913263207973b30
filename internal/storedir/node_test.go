package storedir_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/omnibus-go/bus/internal/storedir"
)

// openClose opens dir as node and closes it, and returns the identity that it had.
func openClose(t *testing.T, dir string, node storedir.Node) storedir.Identity {
	t.Helper()
	d, err := storedir.OpenNode(dir, node)
	if err != nil {
		t.Fatalf("OpenNode %+v: %v", node, err)
	}
	if err := errors.Join(d.Claim(), d.Close()); err != nil {
		t.Fatal(err)
	}
	return d.Identity()
}

// A directory that a node opened, and that no server used, belongs to nobody yet.
func TestNodeThatDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, node := range []storedir.Node{{Cluster: "shop", Name: "n-1"}, {Cluster: "mall", Name: "n-2"}, {}} {
		d, err := storedir.OpenNode(dir, node)
		if err == nil {
			err = d.Close()
		}
		if err != nil {
			t.Errorf("OpenNode %+v: %v", node, err)
		}
	}
}

// A directory without streams becomes that of a node, for ever.
func TestNode(t *testing.T) {
	t.Parallel()
	node := storedir.Node{Cluster: "shop", Name: "n-1"}
	for name, before := range map[string]func(dir string){
		"new":    func(string) {},
		"opened": func(dir string) { openClose(t, dir, storedir.Node{}) },
	} {
		dir := filepath.Join(t.TempDir(), name)
		before(dir)
		id := openClose(t, dir, node)
		if id.Cluster != "shop" || id.ServerName != "n-1" || id.Domain != "shop" || id.Format != 2 {
			t.Errorf("%s: the identity is %+v", name, id)
		}
		if again := openClose(t, dir, node); again != id {
			t.Errorf("%s: the identity is %+v, and was %+v", name, again, id)
		}
		for _, other := range []storedir.Node{{}, {Cluster: "shop", Name: "n-2"}, {Cluster: "mall", Name: "n-1"}} {
			mustRefuse(t, dir, other, node)
		}
	}
}

// mustRefuse makes sure that OpenNode refuses dir, which belongs to owner, and leaves it as it
// was.
func mustRefuse(t *testing.T, dir string, node, owner storedir.Node) {
	t.Helper()
	file := filepath.Join(dir, "omnibus.json")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = storedir.OpenNode(dir, node)
	refused, ok := errors.AsType[*storedir.NodeError](err)
	if !ok || refused.Found != owner || refused.Want != node {
		t.Errorf("OpenNode %+v = %v", node, err)
	}
	t.Log(err)
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("the identity is %q, %v; it was %q", after, err, before)
	}
}

// A cluster deletes streams that it does not know. So a directory that was used alone and
// holds some is refused.
func TestNodeOfStreams(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openClose(t, dir, storedir.Node{})
	stream := filepath.Join(dir, "data", "jetstream", "$G", "streams", "ORDERS")
	write(t, filepath.Join(stream, "meta.inf"), "{}")
	write(t, filepath.Join(stream, "meta.sum"), "00")
	mustRefuse(t, dir, storedir.Node{Cluster: "shop", Name: "n-1"}, storedir.Node{})
	openClose(t, dir, storedir.Node{})
}
