package bus_test

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestWrongProgramsDoNotCompile has the compiler read the programs in
// testdata/compile. A line there with a comment
//
//	// want `regexp`
//
// has to be refused with a message that matches, every other line has to be
// accepted: what the types forbid, no test needs to catch at run time.
func TestWrongProgramsDoNotCompile(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob("testdata/compile/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no programs: %v", err)
	}
	refused := compileErrors(t, dirs)
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(dir, "main.go")
			compareErrors(t, wantedErrors(t, file), refused[file])
		})
	}
}

// compileErrors compiles all programs at once, which takes a fraction of a
// second since the library is compiled already, and returns the messages by file
// and line. Errors elsewhere end the test: the library may have been changed
// since the test was compiled, and then the compiler does not reach the programs.
func compileErrors(t *testing.T, dirs []string) map[string]map[int]string {
	t.Helper()
	args := []string{"build", "-buildvcs=false", "-gcflags=-e"} // -e: all errors, not only the first ten
	for _, dir := range dirs {
		args = append(args, "./"+filepath.ToSlash(dir))
	}
	out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput()
	if _, ran := errors.AsType[*exec.ExitError](err); !ran {
		t.Fatalf("all programs compiled, or none was tried: %v\n%s", err, out)
	}
	refused := make(map[string]map[int]string)
	for _, m := range compilerLine.FindAllStringSubmatch(string(out), -1) {
		line, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Clean(m[1])
		if refused[file] == nil {
			refused[file] = make(map[int]string)
		}
		refused[file][line] += m[3]
	}
	for _, dir := range dirs {
		if refused[filepath.Join(dir, "main.go")] == nil {
			t.Fatalf("the compiler says nothing about %s: %v\n%s", dir, err, out)
		}
	}
	if len(refused) > len(dirs) {
		t.Fatalf("more than the programs does not compile:\n%s", out)
	}
	return refused
}

// compilerLine is file:line:column: message.
var compilerLine = regexp.MustCompile(`(?m)^(\S+\.go):(\d+):\d+: (.*)$`)

// wantedErrors reads the comments of a program.
func wantedErrors(t *testing.T, file string) map[int]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wanted := make(map[int]string)
	for i, line := range strings.Split(string(text), "\n") {
		if _, comment, ok := strings.Cut(line, "// want "); ok {
			wanted[i+1] = strings.Trim(comment, "`")
		}
	}
	if len(wanted) == 0 {
		t.Fatalf("%s wants no error", file)
	}
	return wanted
}

func compareErrors(t *testing.T, wanted, refused map[int]string) {
	t.Helper()
	lines := slices.Sorted(maps.Keys(wanted))
	for line := range refused {
		if _, ok := wanted[line]; !ok {
			t.Errorf("line %d: does not compile: %s", line, refused[line])
		}
	}
	for _, line := range lines {
		got, ok := refused[line]
		switch matched, err := regexp.MatchString(wanted[line], got); {
		case err != nil:
			t.Errorf("line %d: %v", line, err)
		case !ok:
			t.Errorf("line %d: compiles", line)
		case !matched:
			t.Errorf("line %d: the compiler says %q, want a match of %q", line, got, wanted[line])
		}
	}
}
