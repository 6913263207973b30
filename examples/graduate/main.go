// Command graduate moves a running bus from its embedded server to a cluster:
//
//	go run ./examples/graduate
//
// It starts a bus on a directory, and stores and handles orders all the time. Then it starts a
// cluster of three nodes, each in a process of its own, and moves the bus there with
// Bus.SwitchTo, while orders are stored and handled. At last it kills a node. The exit code is 1
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

// timeLimit limits how long the whole program may take. It needs about half a minute.
const timeLimit = 3 * time.Minute

// nodeProgram makes the command that runs a node with these arguments.
type nodeProgram func(ctx context.Context, args ...string) *exec.Cmd

// run shows the move to w. before is how many orders are stored before the move.
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
	shop, err := openShop(ctx, b)
	if err != nil {
		return err
	}
	defer shop.stop()
	if err := shop.await(ctx, before); err != nil {
		return err
	}
	fmt.Fprintf(w, "embedded: %v\n", shop)

	nodes, err := startCluster(ctx, command)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nodes.stop()) }()
	fmt.Fprintf(w, "cluster:  three nodes run at %s\n", strings.Join(nodes.urls, " "))
	shop.resetWait()
	report, err := b.SwitchTo(ctx, strings.Join(nodes.urls, ","), switchover.MaxWait(20*time.Second), switchover.OnProgress(func(p switchover.Progress) {
		fmt.Fprintf(w, "switch:   %-9s %s %v\n", p.Phase, bar(p), shop)
	}))
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "switched: %d streams with %d messages; publishers waited %v\n", len(report.Streams), report.Messages, shop.resetWait())
	if err := shop.await(ctx, shop.storedNow()+1000); err != nil {
		return err
	}
	if err := nodes.kill(0); err != nil {
		return err
	}
	if err := shop.await(ctx, shop.storedNow()+1000); err != nil {
		return err
	}
	fmt.Fprintf(w, "killed:   one node; publishers waited %v\n", shop.resetWait())
	return shop.finish(ctx, w)
}

// bar shows how much of the messages was copied.
func bar(p switchover.Progress) string {
	const width = 20
	done := width
	if p.TotalMessages > 0 {
		done = int(width * p.Messages / p.TotalMessages)
	}
	return "[" + strings.Repeat("#", done) + strings.Repeat(".", width-done) + "]"
}

// quiet logs nothing: servers log each connection that is lost.
func quiet() bus.Option { return bus.WithLogger(hclog.NewNullLogger()) }
