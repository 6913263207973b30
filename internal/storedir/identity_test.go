package storedir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/omnibus-go/bus/internal/storedir"
)

func TestIdentityIsStable(t *testing.T) {
	t.Parallel()
	dir, first := newDir(t)
	if _, second := newDir(t); second.ID == first.ID || second.ServerName == first.ServerName || second.Domain == first.Domain {
		t.Errorf("two directories are alike: %+v and %+v", first, second)
	}
	for range 3 {
		d := open(t, dir)
		if d.Identity() != first {
			t.Errorf("Identity = %+v, first %+v", d.Identity(), first)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCrashAfterIdentity(t *testing.T) {
	t.Parallel()
	dir, id := newDir(t)
	if err := os.Remove(filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "omnibus.json.tmp"), "half")
	d := open(t, dir)
	if d.Identity() != id {
		t.Errorf("Identity = %+v, want %+v", d.Identity(), id)
	}
	if info, err := os.Stat(d.Data()); err != nil || !info.IsDir() {
		t.Errorf("data: %v", err)
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "omnibus.json"), `{"format":4,"id":["another","kind"]}`)
	err := refused[*storedir.FormatError](t, dir)
	if *err != (storedir.FormatError{Dir: dir, Found: 4, Supported: storedir.FormatHome}) {
		t.Errorf("error = %+v", *err)
	}
}

func TestCorrupt(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"empty":        "",
		"cut":          `{"format":1,"id":"a"`,
		"zeros":        "\x00\x00\x00",
		"not object":   `[1]`,
		"no format":    `{"id":"a","server_name":"s","domain":"d"}`,
		"no id":        `{"format":1,"server_name":"s","domain":"d"}`,
		"no name":      `{"format":1,"id":"a","domain":"d"}`,
		"no domain":    `{"format":1,"id":"a","server_name":"s"}`,
		"blank name":   `{"format":1,"id":"a","server_name":"a b","domain":"d"}`,
		"long name":    `{"format":1,"id":"a","server_name":"` + strings.Repeat("x", 256) + `","domain":"d"}`,
		"name control": `{"format":1,"id":"a","server_name":"a\n","domain":"d"}`,
		"bad domain":   `{"format":1,"id":"a","server_name":"s","domain":"a.b"}`,
		"star domain":  `{"format":1,"id":"a","server_name":"s","domain":"*"}`,
		"tail domain":  `{"format":1,"id":"a","server_name":"s","domain":">"}`,
		"wrong types":  `{"format":1,"id":5}`,
		"long id":      `{"format":1,"id":"` + strings.Repeat("x", 256) + `","server_name":"s","domain":"d"}`,
		"huge":         strings.Repeat(" ", 16<<20) + `{"format":1,"id":"a","server_name":"s","domain":"d"}`,
		"long number":  `{"format":` + strings.Repeat("1", 60<<10) + `}`,
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "omnibus.json")
			write(t, file, text)
			err := refused[*storedir.CorruptError](t, dir)
			if err.File != file || errors.Unwrap(err) == nil || len(err.Error()) > 1000 {
				t.Errorf("error = %+v", *err)
			}
			if after, err := os.ReadFile(file); err != nil || string(after) != text {
				t.Errorf("the file was changed to %q, %v", after, err)
			}
		})
	}
}

func TestUnknownFieldsAreAccepted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "omnibus.json"), `{"format":1,"id":"a","server_name":"s","domain":"d","later":true}`)
	if id := open(t, dir).Identity(); id.ServerName != "s" {
		t.Errorf("Identity = %+v", id)
	}
}
