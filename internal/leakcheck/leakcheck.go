// Package leakcheck fails a test binary that ends with goroutines it did not
// begin with.
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

// Main runs the tests of m and exits. It waits a moment for goroutines that are
// about to end, as the server's clock, which goes on for up to 100 ms.
//
// Unless -parallel says otherwise, two tests run side by side on each processor:
// most wait for files, processes and the network more than they compute.
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

const (
	patience = 5 * time.Second

	// slowPatience is for goroutines of the server that wait for an answer of its own
	// for up to 30 s, and do not heed that it ends meanwhile.
	slowPatience = 35 * time.Second
)

// slowEnds are those: it sets up a stream that copies another.
var slowEnds = []string{"server.(*stream).trySetupSourceConsumer.func", "server.(*stream).setupMirrorConsumer.func"}

// leaked returns the stacks of goroutines that are not in before and do not end.
func leaked(before map[string]string) []string {
	begun := time.Now()
	for {
		var left []string
		wait := time.Duration(0)
		for id, stack := range goroutines() {
			if _, old := before[id]; !old && !ignored(stack) {
				left = append(left, stack)
				wait = max(wait, patienceFor(stack))
			}
		}
		if time.Since(begun) >= wait {
			return left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func patienceFor(stack string) time.Duration {
	if containsAny(stack, slowEnds) {
		return slowPatience
	}
	return patience
}

// ignored are goroutines of the runtime and the testing package.
func ignored(stack string) bool {
	return containsAny(stack, []string{"leakcheck.goroutines(", "testing.(*M)", "runtime.goparkunlock", "os/signal.loop", "runtime/pprof", "internal/fuzz."})
}

func containsAny(stack string, marks []string) bool {
	return slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(stack, mark) })
}

// goroutines returns the stacks of all goroutines by their number.
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
