package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/omnibus-go/bus/internal/storedir"
)

// store is where a server keeps its files: a locked directory, or for streams in memory a
// temporary one, since JetStream writes a little in any case.
type store struct {
	path     string
	identity storedir.Identity
	dir      *storedir.Dir // nil in memory
}

// openStore locks the store directory, or makes a temporary one.
func (c *Config) openStore() (*store, error) {
	if c.StoreDir == "" {
		path, err := os.MkdirTemp("", "omnibus-")
		if err != nil {
			return nil, &StartError{fmt.Errorf("cannot make a temporary directory, which JetStream needs also for streams in memory: %w; set TMPDIR to a directory that can be written, or use WithStoreDir", err)}
		}
		name := "bus-" + strings.ToLower(filepath.Base(path))
		return &store{path: path, identity: storedir.Identity{ServerName: name, Domain: name}}, nil
	}
	open := func() (*storedir.Dir, error) { return storedir.OpenNode(c.StoreDir, c.Cluster.node()) }
	if c.HomeID != "" {
		open = func() (*storedir.Dir, error) { return storedir.OpenHome(c.StoreDir, c.HomeID) }
	}
	dir, err := open()
	if err != nil {
		return nil, &StoreError{Err: err}
	}
	for _, w := range dir.Warnings {
		c.Logger.Warn(w, "dir", dir.Path())
	}
	return &store{path: dir.Data(), identity: dir.Identity(), dir: dir}, nil
}

// repairStore finishes what a killed process left half made.
func (c *Config) repairStore(s *store) error {
	if s.dir == nil {
		return nil
	}
	done, err := s.dir.Repair(checkStreamConfig)
	for _, m := range done {
		c.Logger.Warn("a process that was killed had left a stream unfinished: "+m.What, "stream", m.Stream, "path", m.Path)
	}
	if err != nil {
		return &StoreError{Err: err}
	}
	return nil
}

// claim stores whose directory it is.
func (s *store) claim() error {
	if s.dir == nil {
		return nil
	}
	if err := s.dir.Claim(); err != nil {
		return &StoreError{Err: err}
	}
	return nil
}

// release gives the directory up.
func (s *store) release() error {
	if s.dir != nil {
		return s.dir.Close()
	}
	return os.RemoveAll(s.path)
}
