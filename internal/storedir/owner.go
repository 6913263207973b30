package storedir

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Owner is the process that has a directory open. All fields are zero while that process is
// still starting.
type Owner struct {
	// PID is the process ID on Host. If Host is another container it may have no meaning here.
	PID int `json:"pid"`
	// Host is the name of the machine or container.
	Host string `json:"host"`
	// Program is the base name of the executable.
	Program string `json:"program"`
	// Bus is the server name of the bus.
	Bus string `json:"bus"`
	// Process is a random text that each process makes once. Two containers may have the same
	// host name and process ID. It is empty in files of earlier versions.
	Process string `json:"process,omitempty"`
	// Since is when the process opened the directory, in UTC, in whole seconds.
	Since time.Time `json:"since"`
}

// String returns o as a part of an error text.
func (o Owner) String() string {
	if o.PID == 0 {
		return "another process"
	}
	return fmt.Sprintf("%s (pid %d on %s, bus %s, since %s)", o.Program, o.PID, o.Host, o.Bus, o.Since.Format(time.RFC3339))
}

// thisOwner returns this process as an owner.
func thisOwner(id Identity) Owner {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return Owner{
		PID:     os.Getpid(),
		Host:    host,
		Program: filepath.Base(os.Args[0]),
		Bus:     id.ServerName,
		Process: thisProcess,
		Since:   time.Now().UTC().Truncate(time.Second),
	}
}

// thisProcess tells the process from all others.
var thisProcess = rand.Text()

// isThisProcess reports whether o is the process that runs this code.
func (o Owner) isThisProcess() bool { return o.PID == os.Getpid() && o.Process == thisProcess }

// writeOwner writes OWNER. The write need not be atomic: a process that reads half of it sees
// no owner, and only an error text depends on it.
func writeOwner(path string, id Identity) error {
	raw, err := json.Marshal(thisOwner(id))
	if err == nil {
		err = os.WriteFile(filepath.Join(path, ownerName), append(raw, '\n'), fileMode)
	}
	return err
}

// maxOwner is the largest size of OWNER, in bytes.
const maxOwner = 4 << 10

// readOwner reads OWNER. It returns the zero Owner if that is missing or damaged.
func readOwner(path string) Owner {
	raw, err := readSmall(filepath.Join(path, ownerName), maxOwner)
	if err != nil {
		return Owner{}
	}
	return parseOwner(raw)
}

// parseOwner reads the content of OWNER. It returns the zero Owner for a text that this
// package does not write: each user of the machine who may write the file may have written it.
func parseOwner(raw []byte) Owner {
	var o Owner
	if json.Unmarshal(raw, &o) != nil || o.PID <= 0 {
		return Owner{}
	}
	for _, s := range []string{o.Host, o.Program, o.Bus, o.Process} {
		if len(s) > maxName || strings.ContainsFunc(s, isUnprintable) {
			return Owner{}
		}
	}
	return o
}
