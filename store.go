package bus

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/omnibus-go/bus/internal/storedir"
)

// store is where a server keeps its files: a locked directory, or for streams in
// memory a temporary one for the little that JetStream writes all the same.
type store struct {
	path     string
	identity storedir.Identity
	dir      *storedir.Dir // nil in memory
}

func openStore(c *config) (*store, error) {
	if c.storeDir == "" {
		path, err := os.MkdirTemp("", "omnibus-")
		if err != nil {
			return nil, &StartError{Err: fmt.Errorf("no temporary directory, in which JetStream keeps notes also of streams in memory: %w; set TMPDIR to a directory that can be written, or use WithStoreDir", err)}
		}
		name := "bus-" + strings.ToLower(filepath.Base(path))
		return &store{path: path, identity: storedir.Identity{ServerName: name, Domain: name}}, nil
	}
	dir, err := storedir.Open(c.storeDir)
	if err != nil {
		return nil, storeError(c.storeDir, err)
	}
	for _, w := range dir.Warnings {
		c.logger.Warn(w, "dir", dir.Path())
	}
	return &store{path: dir.Data(), identity: dir.Identity(), dir: dir}, nil
}

// mend brings to an end what a killed process had begun with streams. valid says
// whether a file is the configuration of the stream name.
func (s *store) mend(c *config, valid func(name string, config []byte) error) error {
	if s.dir == nil {
		return nil
	}
	done, err := s.dir.Repair(valid)
	for _, m := range done {
		c.logger.Warn("a process that was killed had left a stream unfinished: "+m.What, "stream", m.Stream, "path", m.Path)
	}
	if err != nil {
		return storeError(c.storeDir, err)
	}
	return nil
}

func (s *store) release() error {
	if s.dir != nil {
		return s.dir.Close()
	}
	return os.RemoveAll(s.path)
}

// checkUnmoved refuses to leave streams in the store directory behind silently.
func (c *config) checkUnmoved() error {
	if c.storeDir == "" {
		return nil
	}
	streams, err := storedir.Streams(c.storeDir)
	if err != nil {
		return storeError(c.storeDir, err)
	}
	if len(streams) > 0 {
		return &UnmovedError{Dir: c.storeDir, Streams: streams}
	}
	return nil
}
