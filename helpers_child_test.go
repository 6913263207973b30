package bus_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// victim is a child process that is going to be killed.
type victim struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	log   strings.Builder
}

// startVictim runs the calling test again as a child with dir and extra
// environment. In the child, mayDie returns its directory.
func startVictim(t *testing.T, dir string, env ...string) *victim {
	t.Helper()
	program, err := os.Executable()
	must(t, err)
	v := &victim{cmd: exec.CommandContext(t.Context(), program, "-test.count=1", "-test.run=^"+t.Name()+"$")}
	v.cmd.Env = append(os.Environ(), append(env, asChild+"="+t.Name(), envDir+"="+dir)...)
	v.cmd.Stderr = &v.log
	out, err := v.cmd.StdoutPipe()
	must(t, err)
	v.lines = bufio.NewScanner(out)
	must(t, v.cmd.Start())
	return v
}

// victimDir is the directory of a child made by startVictim, "" in the parent.
func victimDir(t *testing.T) string {
	if os.Getenv(asChild) != t.Name() {
		return ""
	}
	return os.Getenv(envDir)
}

// kill reads lines for take until that returns false, kills the child, and reads
// what it had said until then.
func (v *victim) kill(t *testing.T, take func(line string) bool) {
	t.Helper()
	for v.lines.Scan() {
		if !take(v.lines.Text()) {
			break
		}
	}
	_ = v.cmd.Process.Kill() // Wait tells whether that is how it ended
	for v.lines.Scan() {
		take(v.lines.Text())
	}
	err := v.cmd.Wait()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.Exited() && runtime.GOOS != "windows" {
		t.Fatalf("the child ended by itself: %v\n%s", err, v.log.String())
	}
}

// spin takes some time, to hit a moment.
func spin(d time.Duration) {
	for began := time.Now(); time.Since(began) < d; {
		runtime.Gosched()
	}
}

// say writes a line at once, in one piece.
func say(format string, args ...any) { _, _ = fmt.Fprintf(os.Stdout, format+"\n", args...) }

// scanned reads a line, if it has the format.
func scanned(line, format string, into ...any) bool {
	n, err := fmt.Sscanf(line, format, into...)
	return err == nil && n == len(into)
}

// openFiles counts the open files of this process, or returns 0 where the system
// does not tell.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Logf("open files are not looked at: %v", err)
		return 0
	}
	return len(entries)
}

// asChild is set in a test binary that one of its tests started again.
const asChild = "BUS_TEST_CHILD"

// runAsChild starts the test binary again to run only the test that calls it,
// with extra environment. It returns false in that child, which goes on with
// what the test is about.
func runAsChild(t *testing.T, env ...string) (parent bool) {
	t.Helper()
	if os.Getenv(asChild) == t.Name() {
		return false
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.v", "-test.count=1", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), append(env, asChild+"="+t.Name())...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in its own process: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "_test.go:") {
			t.Log("in its own process: " + strings.TrimSpace(line))
		}
	}
	return true
}
