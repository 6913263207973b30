package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNoBarWithoutTerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := newConsole(&out, false)
	b := c.newBar(100)
	b.add(50)
	fmt.Fprintln(c, "a report")
	c.endBar()
	if got := out.String(); got != "a report\n" {
		t.Errorf("wrote %q", got)
	}
}

func TestBarMakesRoomForReports(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := newConsole(&out, true)
	c.show("[##..] 50 %")
	c.show("short")
	fmt.Fprintln(c, "a report")
	c.show("on")
	c.endBar()
	blank := strings.Repeat(" ", len("[##..] 50 %"))
	want := "\r[##..] 50 %" + "\rshort" + blank[5:] + "\r" + blank + "\ra report\n" + "\ron" + "\r  \r"
	if got := out.String(); got != want {
		t.Errorf("wrote %q, want %q", got, want)
	}
}

func TestBarText(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		total int64
		sizes []int
		want  string
	}{
		"unknown size":       {0, []int{5, 5}, "2 lines"},
		"half":               {20, []int{5, 5}, "[####################....................]  50 %, 2 lines"},
		"the file has grown": {5, []int{10}, "[########################################] 100 %, 1 lines"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newConsole(new(bytes.Buffer), false).newBar(test.total)
			for _, n := range test.sizes {
				b.add(n)
			}
			if got := b.text(); got != test.want {
				t.Errorf("text %q, want %q", got, test.want)
			}
		})
	}
}

func TestFileIsNoTerminal(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if isTerminal(f) {
		t.Error("a file counts as a terminal")
	}
}
