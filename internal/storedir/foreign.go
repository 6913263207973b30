package storedir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ForeignError is the error of [Open] for a directory that is neither empty nor a bus
// directory. Open does not change it.
type ForeignError struct {
	// Dir is the absolute path of the directory.
	Dir string
	// Found has the names of the foreign entries, sorted.
	Found []string
}

// Error implements error.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("bus: directory %q is not a bus directory: it has no %s but holds %s: %s", e.Dir, identityName, e.list(), e.advice())
}

// list returns the first names for the error text.
func (e *ForeignError) list() string {
	const shown = 3
	quoted := make([]string, 0, shown)
	for _, name := range e.Found[:min(len(e.Found), shown)] {
		quoted = append(quoted, fmt.Sprintf("%q", name))
	}
	if more := len(e.Found) - shown; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(quoted, ", "), more)
	}
	return strings.Join(quoted, ", ")
}

// advice returns what the user can do.
func (e *ForeignError) advice() string {
	const empty = "use a new or empty directory"
	switch {
	case slices.Contains(e.Found, dataName):
		return "if it was one, restore " + identityName + " from a backup, otherwise " + empty
	case slices.Contains(e.Found, "jetstream"):
		return "it seems to be the store of a plain nats-server; keep that server running and connect to it, or back its streams up and restore them into a bus; for a new bus " + empty
	}
	return empty
}

// ignoredNames are entries that do not make a directory foreign. File systems and desktops
// put them into the root of a volume.
var ignoredNames = []string{"lost+found", ".snapshot", ".DS_Store", "System Volume Information"}

// checkForeign returns an error if the directory has entries and no identity. Open calls it
// before it writes anything, and createIdentity calls it again under the lock.
func checkForeign(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return &AccessError{Dir: path, Op: "read", Err: err}
	}
	found := foreignNames(entries)
	if len(found) == 0 {
		return nil
	}
	// This comes after the list was read, because a concurrent Open writes the identity
	// before anything that could be in the list.
	switch _, err := os.Lstat(filepath.Join(path, identityName)); {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		return &ForeignError{Dir: path, Found: found}
	default:
		return &AccessError{Dir: path, Op: "read", Err: err}
	}
}

// foreignNames returns the names of the entries that this package does not make.
func foreignNames(entries []os.DirEntry) []string {
	ours := []string{lockName, ownerName, identityName, tempName(identityName)}
	var found []string
	for _, entry := range entries {
		name := entry.Name()
		if !slices.Contains(ours, name) && !slices.Contains(ignoredNames, name) {
			found = append(found, name)
		}
	}
	return found
}
