package bus_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fenced returns the text of the first block of Markdown that is marked with the
// language.
func fenced(t *testing.T, markdown, language string) string {
	t.Helper()
	_, rest, ok := strings.Cut(markdown, "\n```"+language+"\n")
	block, _, closed := strings.Cut(rest, "\n```")
	if !ok || !closed {
		t.Fatalf("README.md has no block marked %q", language)
	}
	return block + "\n"
}

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The program in the README compiles, and prints what the README says.
func TestReadmeProgram(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skipf("SKIPPED: the program of the README was not built: %v", err)
	}
	text := readme(t)
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "program.exe")
	if err := os.WriteFile(source, []byte(fenced(t, text, "go")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), tool, "build", "-o", binary, source).CombinedOutput(); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), binary).Output()
	if err != nil {
		t.Fatalf("the program: %v", err)
	}
	if want := fenced(t, text, "text"); string(out) != want {
		t.Errorf("the program printed:\n%s\nthe README says:\n%s", out, want)
	}
}

var link = regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)

// Links between the documents, and to files, lead somewhere.
func TestDocumentLinks(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/adr/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			checkLinks(t, file)
		}
	}
}

func checkLinks(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range link.FindAllStringSubmatch(string(text), -1) {
		if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
			continue
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(file), filepath.FromSlash(m[1]))); err != nil {
			t.Errorf("%s links to %s: %v", file, m[1], err)
		}
	}
}

// ARCHITECTURE.md names every file of the root package and every internal package.
func TestArchitectureIsComplete(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"*.go", "internal/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			path = filepath.ToSlash(path)
			if !strings.HasSuffix(path, "_test.go") && !strings.Contains(string(text), "`"+path+"`") {
				t.Errorf("ARCHITECTURE.md says nothing about %s", path)
			}
		}
	}
}

var optionFunc = regexp.MustCompile(`(?m)^func ([A-Z]\w+)\(.*\) \w*Option \{`)

// The package documentation lists every option.
func TestOptionsAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range optionFunc.FindAllStringSubmatch(string(source), -1) {
			if !regexp.MustCompile(`\b` + m[1] + `\b`).Match(text) {
				t.Errorf("doc.go does not list %s of %s", m[1], file)
			}
		}
	}
}
