package storedir

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/minio/highwayhash"
)

// Mended is one thing that [Dir.Mend] did, for the log.
type Mended struct {
	Stream string
	What   string // "its making was never finished, its folder was set aside"
	Path   string // where that is, or what was written
}

// Mend brings to an end what a killed process had begun with streams, where it is
// certain what that was; the server would refuse such a directory, or not see
// the stream.
//
//   - A stream whose making was never finished, so that nobody can know of it or
//     have stored a message in it, is moved to set-aside/. Nothing is lost with it.
//   - A stream whose removal had begun, which the server marks, is removed.
//   - A stream with a new configuration and the checksum of an older one gets its
//     new checksum, as the last step of the change. valid says whether such a file
//     is a configuration of the stream name.
//
// Everything else stays as it is, for the server to refuse: a damaged stream is
// nothing to be guessed at. See ADR 11. It returns [*AccessError], and what it had
// done until then.
func (d *Dir) Mend(valid func(name string, config []byte) error) ([]Mended, error) {
	var done []Mended
	err := eachStream(d.Data(), func(path string) error {
		m, err := d.mend(path, valid)
		if err == nil && m.What != "" {
			done = append(done, m)
		}
		return err
	})
	if err != nil {
		return done, &AccessError{Dir: d.path, Op: "mend streams", Err: err}
	}
	return done, nil
}

// mend looks at one stream's folder. A Mended without What is of one that was well,
// or is beyond us.
func (d *Dir) mend(path string, valid func(name string, config []byte) error) (Mended, error) {
	m := Mended{Stream: filepath.Base(path)}
	if name, removed := strings.CutPrefix(m.Stream, removedPrefix); removed {
		m.Stream, m.What, m.Path = name, "its removal had begun and was finished", path
		return m, os.RemoveAll(path)
	}
	unborn, err := isUnborn(path)
	if err != nil {
		return m, err
	}
	if unborn {
		m.What = "its making was never finished, its folder was set aside"
		m.Path, err = d.setAside(path)
		return m, err
	}
	sum, err := newSum(path, valid)
	if err != nil || sum == "" {
		return m, err
	}
	m.What = "its configuration was being changed, the checksum of the new one was written"
	m.Path = filepath.Join(path, sumName)
	return m, writeFile(m.Path, []byte(sum))
}

// setAside moves a folder where the server does not see it, and returns its path.
func (d *Dir) setAside(path string) (string, error) {
	aside := d.file(asideName)
	if err := os.MkdirAll(aside, dirMode); err != nil {
		return "", err
	}
	to := filepath.Join(aside, filepath.Base(path)+time.Now().UTC().Format(".20060102T150405.000000000Z"))
	return to, os.Rename(path, to)
}

// newSum returns the checksum that the configuration in a stream's folder lacks
// because a change was interrupted, and "" where that is not certainly so.
//
// It is certain when all of this holds: the configuration is whole and valid, and
// not older than the checksum, which is well formed and another one's; and it is
// not what a single flipped bit made of the one that the checksum is of. What
// damages files leaves their times as they were, or is no configuration any more.
func newSum(path string, valid func(name string, config []byte) error) (string, error) {
	config, configTime, err := readWithTime(filepath.Join(path, configName))
	if err != nil || config == nil {
		return "", err
	}
	old, oldTime, err := readWithTime(filepath.Join(path, sumName))
	if err != nil || old == nil {
		return "", err
	}
	name := filepath.Base(path)
	sum := sumOf(name, config)
	if string(old) == sum || !wellFormedSum.Match(old) || configTime.Before(oldTime) ||
		len(config) > largestConfig || valid(name, config) != nil || flippedBit(name, config, string(old)) {
		return "", nil
	}
	return sum, nil
}

// largestConfig is how long a configuration may be for each of its bits to be
// tried; a stream with one subject has 500 bytes.
const largestConfig = 16 << 10

var wellFormedSum = regexp.MustCompile(`^[0-9a-f]{16}$`)

// readWithTime returns a file and when it was written; nil where there is none.
func readWithTime(path string) ([]byte, time.Time, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	data, err := os.ReadFile(path)
	return data, info.ModTime(), err
}

// sumOf is the server's checksum of a stream's configuration.
func sumOf(name string, config []byte) string {
	key := sha256.Sum256([]byte(name))
	h, err := highwayhash.New64(key[:])
	if err != nil {
		return "" // of keys of another size only
	}
	_, _ = h.Write(config) // a hash takes everything
	return hex.EncodeToString(h.Sum(nil))
}

// flippedBit reports whether sum is that of config with one bit flipped.
func flippedBit(name string, config []byte, sum string) bool {
	for i := range config {
		for bit := range 8 {
			config[i] ^= 1 << bit
			found := sumOf(name, config) == sum
			config[i] ^= 1 << bit
			if found {
				return true
			}
		}
	}
	return false
}
