package storedir_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/omnibus-go/bus/internal/storedir"
)

func TestForeign(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		files []string
		text  string
	}{
		"home":             {[]string{".bashrc", "Documents/a", "Music/b", "c", "d"}, `".bashrc", "Documents", "Music" and 2 more`},
		"nats-server":      {[]string{"jetstream/$G/x"}, "plain nats-server"},
		"identity is gone": {[]string{"LOCK", "data/jetstream/x"}, "restore omnibus.json"},
		"hidden file":      {[]string{".git/HEAD"}, `".git"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, file := range tt.files {
				write(t, filepath.Join(dir, file), "")
			}
			before := names(t, dir)
			err := refused[*storedir.ForeignError](t, dir)
			if err.Dir != dir || len(err.Found) == 0 || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error = %+v: %v", *err, err)
			}
			if after := names(t, dir); !slices.Equal(after, before) {
				t.Errorf("it held %q, now %q", before, after)
			}
		})
	}
}
