package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
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
	for _, want := range []string{
		`embedded, three nodes run +\d+ stored`, `preflight \[\.+\]`, `commit +\[#+\]`, `cluster +\d+ stored`, `killed +\d+ stored +\d+ handled +\d+ a second`,
		`published +[1-9]\d*\n`, `lost +0\n`, `doubled +0\n`, `out of order +0\n`, `longest publish wait, switch +[1-9]\S*s\n`, `longest publish wait, kill +\S+s\n`,
	} {
		if !regexp.MustCompile(want).MatchString(got.String()) {
			t.Errorf("it did not print %s", want)
		}
	}
	if t.Failed() {
		t.Logf("it printed:\n%s", &got)
	}
}

// The program fails if an order was not handled once, in order.
func TestCheck(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]result{
		"": {published: 9, handled: 9},
		"1 orders lost, 0 handled twice, 0 out of order": {published: 9, handled: 8, lost: 1},
		"0 orders lost, 1 handled twice, 0 out of order": {doubled: 1},
		"0 orders lost, 0 handled twice, 1 out of order": {late: 1},
	} {
		if got := fmt.Sprint(r.check()); got != want && (want != "" || r.check() != nil) {
			t.Errorf("%+v: %s, want %q", r, got, want)
		}
	}
}

// What the publisher does not know to be stored does not count as handled.
func TestCounts(t *testing.T) {
	t.Parallel()
	s := &shop{stored: 2, handled: map[int]int{1: 1, 2: 1, 3: 1}}
	if stored, handled := s.counts(); stored != 2 || handled != 2 {
		t.Errorf("%d stored, %d handled", stored, handled)
	}
}
