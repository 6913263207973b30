package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/omnibus-go/bus"
)

// nodeCommand is the argument with which this program is a node of the cluster.
const nodeCommand = "node"

// cluster is three nodes, each a process.
type cluster struct {
	nodes []*nodeProcess
	urls  []string
}

// nodeProcess is the process of one node. It ends when its input ends.
type nodeProcess struct {
	cmd   *exec.Cmd
	input io.WriteCloser
	lines *bufio.Scanner
	dir   string
}

// startCluster starts the nodes and waits until they have a leader.
func startCluster(ctx context.Context, command nodeProgram) (*cluster, error) {
	c := &cluster{}
	var peers []string
	for range 3 {
		addr, err := freeAddress()
		if err != nil {
			return nil, err
		}
		peers = append(peers, addr)
	}
	for i := range peers {
		if err := c.start(ctx, command, i, peers); err != nil {
			return nil, errors.Join(err, c.stop())
		}
	}
	for _, n := range c.nodes {
		if !n.lines.Scan() {
			return nil, errors.Join(errors.New("a node did not start"), c.stop())
		}
		c.urls = append(c.urls, n.lines.Text())
	}
	return c, nil
}

// start starts node i.
func (c *cluster) start(ctx context.Context, command nodeProgram, i int, peers []string) error {
	dir, err := os.MkdirTemp("", "graduate-node-")
	if err != nil {
		return err
	}
	n := &nodeProcess{cmd: command(ctx, dir, fmt.Sprint(i), strings.Join(peers, ",")), dir: dir}
	n.cmd.Stderr = os.Stderr
	n.input, err = n.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	n.lines = bufio.NewScanner(out)
	if err := n.cmd.Start(); err != nil {
		return err
	}
	c.nodes = append(c.nodes, n)
	return nil
}

// kill kills node i.
func (c *cluster) kill(i int) error { return c.nodes[i].cmd.Process.Kill() }

// stop ends all nodes and removes their directories.
func (c *cluster) stop() error {
	var errs []error
	for _, n := range c.nodes {
		_ = n.input.Close() // a killed one has closed it
	}
	for _, n := range c.nodes {
		_ = n.cmd.Wait() // a killed one has ended with an error
		errs = append(errs, os.RemoveAll(n.dir))
	}
	return errors.Join(errs...)
}

// freeAddress returns an address on which nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// runNode is the program of a node: args are its directory, its number, and the addresses of all
// nodes. It prints its URL when the cluster has a leader, and runs until its input ends.
func runNode(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: %s DIRECTORY NUMBER ADDRESS,ADDRESS,ADDRESS", nodeCommand)
	}
	var number int
	peers := strings.Split(args[2], ",")
	if _, err := fmt.Sscan(args[1], &number); err != nil || number < 0 || number >= len(peers) {
		return fmt.Errorf("%q is no number of a node", args[1])
	}
	b, err := bus.New(quiet(), bus.WithStoreDir(args[0]), bus.WithSync(bus.SyncEvery(time.Second)), bus.WithListen("127.0.0.1:0"),
		bus.WithCluster(bus.Cluster{Name: "graduate", Node: fmt.Sprintf("node-%d", number), Listen: peers[number], Peers: peers}))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := b.LookupStream(ctx, "NONE"); !errors.Is(err, bus.ErrStreamNotFound) {
		return errors.Join(err, b.Close())
	}
	fmt.Fprintln(out, b.ClientURL())
	_, err = io.Copy(io.Discard, in)
	return errors.Join(err, b.Close())
}
