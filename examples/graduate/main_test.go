package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// asNode is set in a process of this test that is a node.
const asNode = "GRADUATE_NODE"

func TestMain(m *testing.M) {
	if args := os.Getenv(asNode); args != "" {
		if err := runNode(strings.Fields(args), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	if strconv.IntSize < 64 {
		t.Skip("SKIPPED: nats-server cannot run a node of a cluster on a 32-bit system")
	}
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	err = run(&got, func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, program)
		cmd.Env = append(os.Environ(), asNode+"="+strings.Join(args, " "))
		return cmd
	}, 500)
	if err != nil {
		t.Fatalf("%v; until then it printed:\n%s", err, &got)
	}
	if !strings.Contains(got.String(), "lost 0 · twice 0 · out of order 0") {
		t.Errorf("it printed:\n%s", &got)
	}
}
