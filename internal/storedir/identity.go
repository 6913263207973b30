package storedir

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
)

// The versions of the directory layout.
const (
	// Format is the version of a directory whose streams are in it, and whose server is in no
	// cluster.
	Format = 1
	// FormatMoved is the version of a directory whose streams were moved to another server, or
	// whose server is a node of a cluster. Programs that do not know it refuse the
	// directory, and so do not use the old streams, or use those of a node alone.
	FormatMoved = 2
	// FormatHome is the version of a directory whose streams came home, see [OpenHome]. It is
	// the newest that this code reads. Programs that do not know it would use old streams.
	FormatHome = 3
)

// Identity identifies a directory. The first [Open] creates it. It changes only when the
// streams of the directory are moved to another server or come home, or when a directory without streams
// becomes that of a node of a cluster.
type Identity struct {
	// Format is the version of the layout, see [Format].
	Format int `json:"format"`
	// ID is random and unique to the directory.
	ID string `json:"id"`
	// ServerName is the name of the server. A cluster takes a server with another name for
	// a new peer, so the name must not change.
	ServerName string `json:"server_name"`
	// Domain is the JetStream domain, one subject token. The server cannot add it later.
	Domain string `json:"domain"`
	// Cluster is the cluster of which the server is a node; empty for none.
	Cluster string `json:"cluster,omitempty"`
	// Created is the time of the first Open, in UTC, in whole seconds.
	Created time.Time `json:"created"`
	// Moved says where the streams were moved to. It is nil if they are in the directory.
	Moved *Move `json:"moved,omitempty"`
	// Home is the move by which the streams came home the last time. Its ID names the folder
	// that they are in.
	Home *Move `json:"home,omitempty"`
}

// maxIdentity is the largest size of the identity and of the journal of a move, in bytes. The
// names of all streams that were moved are in them.
const maxIdentity = 16 << 20

// loadIdentity returns the stored identity, or stores a new one. prepare calls it under the
// lock.
func loadIdentity(path string) (Identity, error) {
	file := filepath.Join(path, identityName)
	raw, err := readSmall(file, maxIdentity)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return createIdentity(path)
	case errors.Is(err, errTooLarge):
		return Identity{}, &CorruptError{File: file, Err: err}
	case err != nil:
		return Identity{}, &AccessError{Dir: path, Op: "read " + identityName, Err: err}
	}
	return parseIdentity(path, file, raw)
}

// createIdentity stores a new identity. It checks again for foreign entries: the first check
// was before the lock.
func createIdentity(path string) (Identity, error) {
	if err := checkForeign(path); err != nil {
		return Identity{}, err
	}
	id := newIdentity()
	return id, writeJSON(path, identityName, id)
}

// writeJSON replaces a file of the directory.
func writeJSON(path, name string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		err = writeFile(filepath.Join(path, name), append(raw, '\n'))
	}
	if err != nil {
		return &AccessError{Dir: path, Op: "write " + name, Err: err}
	}
	return nil
}

// newIdentity returns a new random identity.
func newIdentity() Identity {
	return Identity{
		Format:     Format,
		ID:         strings.ToLower(rand.Text()),
		ServerName: randomName(),
		Domain:     randomName(),
		Created:    time.Now().UTC().Truncate(time.Second),
	}
}

// randomName returns a name with 50 random bits. That is enough for the servers of a cluster.
func randomName() string {
	return "bus-" + strings.ToLower(rand.Text()[:10])
}

// parseIdentity reads an identity. It reads the format first, because this code does not
// know the other fields of a newer format.
func parseIdentity(path, file string, raw []byte) (Identity, error) {
	var version struct{ Format int }
	if err := json.Unmarshal(raw, &version); err != nil {
		return Identity{}, &CorruptError{File: file, Err: shortError(err)}
	}
	if version.Format > FormatHome {
		return Identity{}, &FormatError{Dir: path, Found: version.Format, Supported: FormatHome}
	}
	var id Identity
	if err := json.Unmarshal(raw, &id); err != nil {
		return Identity{}, &CorruptError{File: file, Err: shortError(err)}
	}
	if err := id.check(); err != nil {
		return Identity{}, &CorruptError{File: file, Err: err}
	}
	return id, nil
}

// shortError is err with a text of at most 200 bytes: that of a JSON decoder may repeat a part
// of the file.
func shortError(err error) error {
	if text := err.Error(); len(text) > 200 {
		return errors.New(strings.ToValidUTF8(text[:200], "") + "…")
	}
	return err
}

// check returns an error if a stored identity lacks a field or has an invalid name.
func (id Identity) check() error {
	switch {
	case id.Format < 1:
		return fmt.Errorf("format is %d", id.Format)
	case id.ID == "":
		return errors.New("id is missing")
	case nameProblem(id.ID) != "":
		return fmt.Errorf("id %.64q %s", id.ID, nameProblem(id.ID))
	case id.ServerName == "":
		return errors.New("server_name is missing")
	case id.Domain == "":
		return errors.New("domain is missing")
	case id.Format != id.neededFormat():
		return fmt.Errorf("format %d does not fit to what it says of a move or of a cluster", id.Format)
	}
	if id.Home != nil && !isFolderPart(id.Home.ID) {
		return fmt.Errorf("the id of the way home, %.64q, is no part of a name of a folder", id.Home.ID)
	}
	for _, m := range []*Move{id.Moved, id.Home} {
		if m == nil {
			continue
		}
		if err := m.check(); err != nil {
			return err
		}
	}
	return id.checkNames()
}

// neededFormat is the version of a directory with this identity.
func (id Identity) neededFormat() int {
	switch {
	case id.Home != nil:
		return FormatHome
	case id.Moved != nil || id.Cluster != "":
		return FormatMoved
	}
	return Format
}

// checkNames checks the names that the server uses.
func (id Identity) checkNames() error {
	if reason := nameProblem(id.ServerName); reason != "" {
		return fmt.Errorf("server_name %.64q %s", id.ServerName, reason)
	}
	if reason := tokenProblem(id.Domain); reason != "" {
		return fmt.Errorf("domain %.64q %s", id.Domain, reason)
	}
	if reason := tokenProblem(id.Cluster); reason != "" {
		return fmt.Errorf("cluster %.64q %s", id.Cluster, reason)
	}
	return nil
}

// tokenProblem returns what is wrong with a name that becomes a token of the API's subjects,
// as in $JS.<domain>.API, or "".
func tokenProblem(s string) string {
	if strings.ContainsAny(s, ".*>") {
		return "contains a dot or a wildcard character"
	}
	return nameProblem(s)
}

// maxName is the longest name in bytes, as for streams.
const maxName = 255

// nameProblem returns what is wrong with a name, or "".
func nameProblem(s string) string {
	switch {
	case len(s) > maxName:
		return fmt.Sprintf("is longer than %d bytes", maxName)
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || isUnprintable(r) }):
		return "contains a blank, a control character or invalid UTF-8"
	}
	return ""
}

// isUnprintable reports whether r is a control character or stands for invalid UTF-8.
func isUnprintable(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }
