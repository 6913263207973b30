// Package leakcheck fails a test binary that ends with goroutines it did not
// begin with.
package leakcheck

import (
	"flag"
	"fmt"
	"os"
	"runtime"
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

const patience = 5 * time.Second

// leaked returns the stacks of goroutines that are not in before and do not end.
func leaked(before map[string]string) []string {
	deadline := time.Now().Add(patience)
	for {
		var left []string
		for id, stack := range goroutines() {
			if _, old := before[id]; !old && !ignored(stack) {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// ignored are goroutines of the runtime and the testing package.
func ignored(stack string) bool {
	for _, mark := range []string{"leakcheck.goroutines(", "testing.(*M)", "runtime.goparkunlock", "os/signal.loop", "runtime/pprof", "internal/fuzz."} {
		if strings.Contains(stack, mark) {
			return true
		}
	}
	return false
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
