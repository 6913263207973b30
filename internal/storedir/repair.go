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

// Repair is one repair of [Dir.Repair], for the log.
type Repair struct {
	Stream string
	What   string // "its creation was never finished, its folder was set aside"
	Path   string // the moved folder, or the written file
}

// Repair finishes or undoes what a killed process had begun with streams, if it is certain
// what that was. Without it the server would refuse the directory, or would not see the
// stream. Call it before the server starts.
//
//   - A stream whose creation was never finished is moved to set-aside/. Nobody knows of
//     it and no message is in it, so nothing is lost.
//   - A stream whose removal had begun is removed. The server marks such a stream.
//   - A stream with a new configuration and the checksum of an older one gets the new
//     checksum. That is the last step of a change. valid returns an error if config is not
//     a configuration of the stream name.
//
// It also removes the empty file that a server leaves that is killed while it tries whether it can
// write. Repair leaves every other stream as it is, and the server refuses a damaged one. See
// ADR 11. If it fails it returns an [*AccessError] and the repairs that it made before.
func (d *Dir) Repair(valid func(name string, config []byte) error) ([]Repair, error) {
	if err := d.removeProbes(); err != nil {
		return nil, &AccessError{Dir: d.path, Op: "remove an empty file of a killed server", Err: err}
	}
	var done []Repair
	err := eachStream(d.Data(), func(path string) error {
		m, err := d.repairStream(path, valid)
		if err == nil && m.What != "" {
			done = append(done, m)
		}
		return err
	})
	if err != nil {
		return done, &AccessError{Dir: d.path, Op: "repair streams", Err: err}
	}
	return done, nil
}

// removeProbes removes the empty files with which the server finds out at its start whether it can
// write beside the folders of its accounts. A server that is killed then leaves one, and takes it for
// an account that nobody knows.
func (d *Dir) removeProbes() error {
	path := filepath.Join(d.Data(), jetstreamName)
	entries, err := readDir(path)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), probePrefix) {
			continue
		}
		empty, err := isSmall(e, 0)
		if err == nil && empty {
			err = os.Remove(filepath.Join(path, e.Name()))
		}
		if err != nil {
			return err
		}
	}
	return err
}

// repairStream repairs one stream, whose folder is path. It returns a Repair without What if
// there was nothing to repair, or if the stream cannot be repaired.
func (d *Dir) repairStream(path string, valid func(name string, config []byte) error) (Repair, error) {
	m := Repair{Stream: filepath.Base(path)}
	if name, removed := strings.CutPrefix(m.Stream, removedPrefix); removed {
		m.Stream, m.What, m.Path = name, "its removal had begun and was finished", path
		return m, os.RemoveAll(path)
	}
	unfinished, err := isUnfinished(path)
	if err != nil {
		return m, err
	}
	if unfinished {
		m.What = "its creation was never finished, its folder was set aside"
		m.Path, err = d.moveAside(path)
		return m, err
	}
	sum, err := missingSum(path, valid)
	if err != nil || sum == "" {
		return m, err
	}
	m.What = "its configuration was being changed, the checksum of the new one was written"
	m.Path = filepath.Join(path, sumName)
	return m, writeFile(m.Path, []byte(sum))
}

// moveAside moves a folder to a place where the server does not look, and returns the new
// path.
func (d *Dir) moveAside(path string) (string, error) {
	aside := d.file(asideName)
	if err := os.MkdirAll(aside, dirMode); err != nil {
		return "", err
	}
	to := filepath.Join(aside, filepath.Base(path)+time.Now().UTC().Format(".20060102T150405.000000000Z"))
	return to, os.Rename(path, to)
}

// missingSum returns the checksum for a configuration whose change was interrupted before the
// checksum was written. It returns "" if that is not certain.
//
// It is certain if all of these are true: the configuration is complete and valid; it is not
// older than the checksum file; that file has a well-formed checksum of something else; and
// that something does not differ from the configuration by a single bit. Damage to files
// does not change their times, or leaves no valid configuration.
func missingSum(path string, valid func(name string, config []byte) error) (string, error) {
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
		len(config) > maxConfig || valid(name, config) != nil || flippedBit(name, config, string(old)) {
		return "", nil
	}
	return sum, nil
}

// maxConfig is the longest configuration, in bytes, for which flippedBit tries each bit. That
// of a stream with one subject has 500 bytes.
const maxConfig = 16 << 10

var wellFormedSum = regexp.MustCompile(`^[0-9a-f]{16}$`)

// readWithTime returns the content of a file and when it was written. It returns nil if the
// file does not exist.
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

// sumOf returns the checksum that the server writes for the configuration of a stream.
func sumOf(name string, config []byte) string {
	key := sha256.Sum256([]byte(name))
	h, err := highwayhash.New64(key[:])
	if err != nil {
		return "" // not reached: only for keys of another size
	}
	_, _ = h.Write(config) // a hash never fails
	return hex.EncodeToString(h.Sum(nil))
}

// flippedBit reports whether sum is the checksum of config with one bit flipped.
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
