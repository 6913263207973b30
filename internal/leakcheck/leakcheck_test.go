package leakcheck_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/leakcheck"
)

// modeEnv makes the test binary one that is checked, and says what TestChild does.
const modeEnv = "OMNIBUS_LEAKCHECK_MODE"

func TestMain(m *testing.M) {
	mode := os.Getenv(modeEnv)
	if mode == "" {
		os.Exit(m.Run())
	}
	if mode == "old" {
		go blockForEver()
	}
	leakcheck.Main(m)
}

func blockForEver() { select {} }

// TestChild is what a checked test binary runs; elsewhere it does nothing.
func TestChild(t *testing.T) {
	switch os.Getenv(modeEnv) {
	case "leak":
		go blockForEver()
	case "late":
		go func() { time.Sleep(300 * time.Millisecond) }()
	case "failure":
		t.Error("a failure of its own")
	}
}

func TestMainChecks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode string
		code int
		says string
	}{
		{mode: "clean"},
		{mode: "leak", code: 1, says: "leakcheck_test.blockForEver"},
		{mode: "late"},
		{mode: "old"},
		{mode: "failure", code: 1, says: "a failure of its own"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
			cmd.Env = append(os.Environ(), modeEnv+"="+c.mode)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err := cmd.Run()
			code := 0
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if code != c.code || !strings.Contains(out.String(), c.says) {
				t.Errorf("exit code %d, want %d; it says:\n%s", code, c.code, &out)
			}
			if leaks := strings.Contains(out.String(), "left behind"); leaks != (c.mode == "leak") {
				t.Errorf("it reports a leak: %v; it says:\n%s", leaks, &out)
			}
		})
	}
}
