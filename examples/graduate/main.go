// Command graduate moves a running bus from its embedded server to a cluster:
//
//	go run ./examples/graduate
//
// It starts a bus on a directory, and stores and handles orders all the time. Then it starts a
// cluster of three nodes, each in a process of its own, and moves the bus there with
// Bus.SwitchTo, while orders are stored and handled. At last it kills a node. A line each half second
// says how fast orders are stored. A table at the end says what became of them. The exit code is 1
// if an order was lost or handled twice, or if storing one failed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == nodeCommand {
		if err := runNode(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "node:", err)
			os.Exit(1)
		}
		return
	}
	program, err := os.Executable()
	if err == nil {
		err = run(os.Stdout, func(ctx context.Context, args ...string) *exec.Cmd {
			return exec.CommandContext(ctx, program, append([]string{nodeCommand}, args...)...)
		}, 5000)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "graduate:", err)
		os.Exit(1)
	}
}

// timeLimit limits how long the whole program may take. It needs about 15 s.
const timeLimit = 3 * time.Minute

// nodeProgram makes the command that runs a node with these arguments.
type nodeProgram func(ctx context.Context, args ...string) *exec.Cmd

// run opens the bus and shows the move to w. before is how many orders are stored before the move.
func run(w io.Writer, command nodeProgram, before int) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit)
	defer cancel()
	dir, err := os.MkdirTemp("", "graduate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	b, err := bus.New(bus.WithStoreDir(dir), bus.WithSync(bus.SyncEvery(time.Second)), bus.WithTimeout(30*time.Second), quiet())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	return move(ctx, w, b, command, before)
}

// move moves b to a cluster, kills a node, and prints what became of the orders.
func move(ctx context.Context, w io.Writer, b *bus.Bus, command nodeProgram, before int) (err error) {
	shop, err := openShop(ctx, b)
	if err != nil {
		return err
	}
	defer shop.stop()
	m := startMeter(ctx, w, shop)
	defer m.stop()
	if err := shop.await(ctx, before); err != nil {
		return err
	}

	nodes, err := startCluster(ctx, command)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nodes.stop()) }()
	m.enter("embedded, three nodes run")
	shop.resetWait()
	if _, err := b.SwitchTo(ctx, strings.Join(nodes.urls, ","), switchover.MaxWait(20*time.Second), switchover.OnProgress(m.show)); err != nil {
		return err
	}
	m.enter("cluster")
	if err := shop.await(ctx, 1000); err != nil {
		return err
	}
	switched := shop.resetWait()
	if err := nodes.kill(0); err != nil {
		return err
	}
	m.enter("killed")
	if err := shop.await(ctx, 1000); err != nil {
		return err
	}
	killed := shop.resetWait()
	r, err := shop.finish(ctx)
	m.stop()
	if err != nil {
		return err
	}
	table(w, r, switched, killed)
	return r.check()
}

// table prints the result.
func table(w io.Writer, r result, switched, killed time.Duration) {
	for _, row := range []struct {
		name  string
		value any
	}{
		{"published", r.published},
		{"handled", r.handled},
		{"lost", r.lost},
		{"doubled", r.doubled},
		{"out of order", r.late},
		{"longest publish wait, switch", switched},
		{"longest publish wait, kill", killed},
	} {
		fmt.Fprintf(w, "%-28s %8v\n", row.name, row.value)
	}
}

// quiet logs nothing: servers log each connection that is lost.
func quiet() bus.Option { return bus.WithLogger(hclog.NewNullLogger()) }
