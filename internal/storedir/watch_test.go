package storedir_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/omnibus-go/bus/internal/storedir"
)

func TestCheckNoticesTheLoss(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		do   func(dir string) error
		want string
	}{
		"nothing":           {func(string) error { return nil }, ""},
		"LOCK removed":      {func(dir string) error { return os.Remove(filepath.Join(dir, "LOCK")) }, "LOCK was removed"},
		"directory removed": {os.RemoveAll, "the directory was removed"},
		"directory moved":   {func(dir string) error { return os.Rename(dir, dir+"2") }, "the directory was removed or moved"},
		"LOCK replaced": {func(dir string) error {
			lock := filepath.Join(dir, "LOCK")
			if err := os.Rename(lock, lock+"2"); err != nil {
				return err
			}
			return os.WriteFile(lock, nil, 0o600)
		}, "LOCK was replaced"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := newDir(t)
			d := open(t, dir)
			if err := tc.do(dir); err != nil {
				t.Skipf("SKIPPED: this system does not allow that: %v", err)
			}
			err := d.Check()
			if lost, ok := err.(*storedir.LostError); ok != (tc.want != "") || ok && !strings.Contains(lost.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
