package storedir_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/omnibus-go/bus/internal/storedir"
)

// Who the owner is, is only told to others: a directory works without.
func TestOwnerThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir, _ := newDir(t)
	write(t, filepath.Join(dir, "OWNER", "in the way"), "")
	d := open(t, dir)
	if len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], "OWNER") {
		t.Errorf("Warnings = %q", d.Warnings)
	}
	if err := refused[*storedir.LockedError](t, dir); err.Owner != (storedir.Owner{}) {
		t.Errorf("the owner is %+v", err.Owner)
	}
}

func TestUnknownOwner(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bus")
	open(t, dir)
	for name, text := range map[string]string{
		"cut":       `{"pid":1`,
		"new line":  `{"pid":1,"program":"a\nb"}`,
		"long":      `{"pid":1,"program":"` + strings.Repeat("x", 256) + `"}`,
		"huge":      strings.Repeat(" ", 4<<10) + `{"pid":1}`,
		"no number": `{"pid":-1}`,
	} {
		write(t, filepath.Join(dir, "OWNER"), text)
		err := refused[*storedir.LockedError](t, dir)
		if err.Owner != (storedir.Owner{}) || !strings.Contains(err.Error(), "in use by another process:") {
			t.Errorf("%s: error = %+v: %v", name, *err, err)
		}
	}
}
