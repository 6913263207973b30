package bus_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// serverSymbols are the methods of nats-server in the list of a program's
// symbols. Its package initialisation is linked all the same, 34 KB.
var serverSymbols = regexp.MustCompile(`(?m) T (github\.com/nats-io/nats-server/v2/server\.\(\*\w+\)\.\S+)`)

// TestConnectDoesNotLinkTheServer builds a program that only connects and looks
// for the server in it: New reaches it by closures that Connect does not have.
func TestConnectDoesNotLinkTheServer(t *testing.T) {
	t.Parallel()
	program, size := buildProgram(t, "./testdata/size/connects")
	t.Logf("a program that connects has %.1f MiB", mebibytes(size))
	if found := serverSymbols.FindAllSubmatch(symbols(t, program), 4); len(found) > 0 {
		t.Errorf("the server is linked: %s and others; what in the code outside server.go leads there?", found[0][1])
	}
}

// TestNewLinksTheServer shows that the check above can fail.
func TestNewLinksTheServer(t *testing.T) {
	t.Parallel()
	program, size := buildProgram(t, "./testdata/size/embeds")
	t.Logf("a program that embeds the server has %.1f MiB", mebibytes(size))
	if !serverSymbols.Match(symbols(t, program)) {
		t.Error("no symbol of the server is found: does the expression still fit?")
	}
}

// buildProgram builds with symbols, as `go build` does, and returns the file and
// its size.
func buildProgram(t *testing.T, pkg string) (file string, size int64) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "program.exe")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", file, pkg).CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, info.Size()
}

func symbols(t *testing.T, program string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "tool", "nm", program).Output()
	if err != nil {
		t.Fatalf("go tool nm: %v", err)
	}
	return out
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
