package storedir

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Owner says who has a directory open. All fields are zero while the owner is
// still starting.
type Owner struct {
	// PID is the owner's process id on Host; in another container it may mean nothing here.
	PID int `json:"pid"`
	// Host is the name of the owner's machine or container.
	Host string `json:"host"`
	// Program is the base name of the owner's executable.
	Program string `json:"program"`
	// Bus is the server name of the owner's bus.
	Bus string `json:"bus"`
	// Since is when it opened the directory, UTC, in seconds.
	Since time.Time `json:"since"`
}

// String describes o within an error text.
func (o Owner) String() string {
	if o.PID == 0 {
		return "another process"
	}
	return fmt.Sprintf("%s (pid %d on %s, bus %s, since %s)", o.Program, o.PID, o.Host, o.Bus, o.Since.Format(time.RFC3339))
}

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
		Since:   time.Now().UTC().Truncate(time.Second),
	}
}

// isThisProcess reports whether o is the process that runs this code.
func (o Owner) isThisProcess() bool {
	host, err := os.Hostname()
	return err == nil && o.PID == os.Getpid() && o.Host == host
}

// writeOwner needs no atomic write: who reads half of it sees no owner, and
// nothing depends on it but an error text.
func writeOwner(path string, id Identity) error {
	raw, err := json.Marshal(thisOwner(id))
	if err == nil {
		err = os.WriteFile(filepath.Join(path, ownerName), append(raw, '\n'), fileMode)
	}
	return err
}

func readOwner(path string) Owner {
	var o Owner
	raw, err := os.ReadFile(filepath.Join(path, ownerName))
	if err != nil || json.Unmarshal(raw, &o) != nil {
		return Owner{}
	}
	return o
}
