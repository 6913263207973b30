package bus_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// program is a child process. Whoever launches it sees to it that it ends with its test.
type program struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner  // of its standard output; read it to the end before wait
	log   strings.Builder // its standard error; complete after wait
}

// asChild is set in a test binary that one of its tests started again.
const asChild = "BUS_TEST_CHILD"

// again returns the command that runs the calling test in a process of its own, with extra
// environment.
func again(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	path, err := os.Executable()
	must(t, err)
	cmd := exec.Command(path, "-test.count=1", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), append(env, asChild+"="+t.Name())...)
	return cmd
}

// launch starts a child process.
func launch(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{cmd: cmd}
	cmd.Stderr = &p.log
	out, err := cmd.StdoutPipe()
	must(t, err)
	p.lines = bufio.NewScanner(out)
	p.stdin, err = cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	return p
}

// end kills the process and waits until it is gone. Both fail for one that has ended.
func (p *program) end() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// asVictim is set in a child made by startVictim.
const asVictim = "BUS_TEST_VICTIM"

// endWithParent runs from the start of a victim on. It ends the process when the standard input
// ends, which is when the parent has ended, in whatever way.
func endWithParent() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(3)
}

// startVictim runs the calling test again as a child with dir and extra
// environment. In the child, victimDir returns its directory.
func startVictim(t *testing.T, dir string, env ...string) *program {
	t.Helper()
	p := launch(t, again(t, append(env, envDir+"="+dir, asVictim+"=1")...))
	t.Cleanup(p.end)
	return p
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
func (p *program) kill(t *testing.T, take func(line string) bool) {
	t.Helper()
	for p.lines.Scan() {
		if !take(p.lines.Text()) {
			break
		}
	}
	_ = p.cmd.Process.Kill() // Wait tells whether that is how it ended
	for p.lines.Scan() {
		take(p.lines.Text())
	}
	err := p.cmd.Wait()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.Exited() && runtime.GOOS != "windows" {
		t.Fatalf("the child ended by itself: %v\n%s", err, p.log.String())
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

// runAsChild starts the test binary again to run only the test that calls it,
// with extra environment. It returns false in that child, which goes on with
// what the test is about.
func runAsChild(t *testing.T, env ...string) (parent bool) {
	t.Helper()
	if os.Getenv(asChild) == t.Name() {
		return false
	}
	cmd := again(t, env...)
	cmd.Args = append(cmd.Args, "-test.v")
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
