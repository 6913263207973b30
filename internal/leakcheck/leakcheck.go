// Package leakcheck fails a test binary that leaks goroutines. It is for tests only. It
// has no state and starts no goroutine.
package leakcheck

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Main runs the tests of m and exits. TestMain calls it. The binary fails if goroutines are left that
// did not exist at the start. Main waits for goroutines that are about to end. The clock of the
// server, for example, runs for up to 100 ms after the server has stopped.
//
// Unless the flag -parallel is set, two tests run in parallel on each processor, because most tests
// wait for files, processes and the network.
func Main(m *testing.M) {
	flag.Parse()
	if given := flag.Lookup("test.parallel"); given.Value.String() == given.DefValue {
		_ = given.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0)))
	}
	before := goroutines()
	code := m.Run()
	if code == 0 {
		if left := leaked(before); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "leakcheck: %d goroutines were left behind:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// How long Main waits for goroutines to end.
const (
	endTimeout = 5 * time.Second

	// slowEndTimeout is for slowGoroutines.
	slowEndTimeout = 35 * time.Second
)

// slowGoroutines belong to a server that sets up a stream with a source or a mirror. They wait for an
// answer for up to 30 s, also if the server has stopped.
var slowGoroutines = []string{"server.(*stream).trySetupSourceConsumer.func", "server.(*stream).setupMirrorConsumer.func"}

// leaked returns the stacks of goroutines that are not in before and do not end in time.
func leaked(before map[string]string) []string {
	begun := time.Now()
	for {
		var left []string
		wait := time.Duration(0)
		for id, stack := range goroutines() {
			if _, old := before[id]; !old && !ignored(stack) {
				left = append(left, stack)
				wait = max(wait, timeoutFor(stack))
			}
		}
		if time.Since(begun) >= wait {
			return left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// timeoutFor returns how long to wait for the goroutine with that stack.
func timeoutFor(stack string) time.Duration {
	if containsAny(stack, slowGoroutines) {
		return slowEndTimeout
	}
	return endTimeout
}

// ignored reports whether a goroutine belongs to the runtime, the testing package or this package.
func ignored(stack string) bool {
	return containsAny(stack, []string{"leakcheck.goroutines(", "testing.(*M)", "runtime.goparkunlock", "os/signal.loop", "runtime/pprof", "internal/fuzz."})
}

// containsAny reports whether stack contains one of marks.
func containsAny(stack string, marks []string) bool {
	return slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(stack, mark) })
}

// goroutines returns the stacks of all goroutines by goroutine ID.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	all := make(map[string]string)
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		id, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		all[id] = stack
	}
	return all
}
