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

// Format is the version of the directory's layout that this code writes and
// the newest that it reads.
const Format = 1

// Identity is what a directory is. It never changes after the first [Open].
type Identity struct {
	// Format is the version of the layout, see [Format].
	Format int `json:"format"`
	// ID is random and tells the directory from any other.
	ID string `json:"id"`
	// ServerName is the server's name. A server under another name would be a
	// new peer to a cluster, so it must stay.
	ServerName string `json:"server_name"`
	// Domain is the JetStream domain, one subject token. It can never be added later.
	Domain string `json:"domain"`
	// Created is the time of the first Open, UTC, in seconds.
	Created time.Time `json:"created"`
}

// loadIdentity returns the stored identity, or stores a new one. The lock is held.
func loadIdentity(path string) (Identity, error) {
	file := filepath.Join(path, identityName)
	raw, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return createIdentity(path)
	case err != nil:
		return Identity{}, &AccessError{Dir: path, Op: "read " + identityName, Err: err}
	}
	return parseIdentity(path, file, raw)
}

// createIdentity is called under the lock, so what refuseForeign found before
// it may have changed.
func createIdentity(path string) (Identity, error) {
	if err := refuseForeign(path); err != nil {
		return Identity{}, err
	}
	id := newIdentity()
	raw, err := json.MarshalIndent(id, "", "  ")
	if err == nil {
		err = writeFile(filepath.Join(path, identityName), append(raw, '\n'))
	}
	if err != nil {
		return Identity{}, &AccessError{Dir: path, Op: "write " + identityName, Err: err}
	}
	return id, nil
}

func newIdentity() Identity {
	return Identity{
		Format:     Format,
		ID:         strings.ToLower(rand.Text()),
		ServerName: randomName(),
		Domain:     randomName(),
		Created:    time.Now().UTC().Truncate(time.Second),
	}
}

// randomName has 50 random bits: enough for the servers of any one cluster.
func randomName() string {
	return "bus-" + strings.ToLower(rand.Text()[:10])
}

// parseIdentity reads the format first: what else a newer one holds, and how,
// is not known here.
func parseIdentity(path, file string, raw []byte) (Identity, error) {
	var version struct{ Format int }
	if err := json.Unmarshal(raw, &version); err != nil {
		return Identity{}, &CorruptError{File: file, Err: err}
	}
	if version.Format > Format {
		return Identity{}, &FormatError{Dir: path, Found: version.Format, Supported: Format}
	}
	var id Identity
	if err := json.Unmarshal(raw, &id); err != nil {
		return Identity{}, &CorruptError{File: file, Err: err}
	}
	if err := id.complete(); err != nil {
		return Identity{}, &CorruptError{File: file, Err: err}
	}
	return id, nil
}

// complete returns an error if a stored identity lacks something.
func (id Identity) complete() error {
	switch {
	case id.Format < 1:
		return fmt.Errorf("format is %d", id.Format)
	case id.ID == "":
		return errors.New("id is missing")
	case id.ServerName == "":
		return errors.New("server_name is missing")
	case id.Domain == "":
		return errors.New("domain is missing")
	}
	return id.checkNames()
}

func (id Identity) checkNames() error {
	if reason := badName(id.ServerName); reason != "" {
		return fmt.Errorf("server_name %q %s", id.ServerName, reason)
	}
	reason := badName(id.Domain)
	if reason == "" && strings.ContainsAny(id.Domain, ".*>") {
		// The domain becomes a token of the API's subjects: $JS.<domain>.API.
		reason = "contains a dot or a wildcard character"
	}
	if reason != "" {
		return fmt.Errorf("domain %q %s", id.Domain, reason)
	}
	return nil
}

// maxName is as long as the server allows the names of streams to be.
const maxName = 255

func badName(s string) string {
	switch {
	case len(s) > maxName:
		return fmt.Sprintf("is longer than %d bytes", maxName)
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == unicode.ReplacementChar }):
		return "contains a blank, a control character or invalid UTF-8"
	}
	return ""
}
