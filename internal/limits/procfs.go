package limits

import (
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// The functions in this file read what Linux tells in files. They take the
// root of the file system, so that tests can show them any machine, and return
// 0 for "unknown" as for "no limit".

// MeminfoTotal returns MemTotal of proc/meminfo in bytes.
func MeminfoTotal(root fs.FS) int64 {
	for line := range strings.Lines(readString(root, "proc/meminfo")) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib := parseSize(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if kib > math.MaxInt64/1024 {
				return 0
			}
			return kib * 1024
		}
	}
	return 0
}

// CgroupMemory returns the least memory limit of the cgroups, version 1 and 2,
// that this process is in according to proc/self/cgroup.
func CgroupMemory(root fs.FS) int64 {
	var limit int64
	for line := range strings.Lines(readString(root, "proc/self/cgroup")) {
		limit = smallerLimit(limit, cgroupLimit(root, strings.TrimSuffix(line, "\n")))
	}
	return limit
}

// lineLimit handles one line: hierarchy number, controllers, path.
func cgroupLimit(root fs.FS, line string) int64 {
	fields := strings.SplitN(line, ":", 3)
	if len(fields) != 3 {
		return 0
	}
	number, controllers, group := fields[0], fields[1], fields[2]
	switch {
	case number == "0" && controllers == "":
		// Hybrid systems mount version 2 one level deeper.
		return smallerLimit(
			hierarchyLimit(root, "sys/fs/cgroup", group, "memory.max"),
			hierarchyLimit(root, "sys/fs/cgroup/unified", group, "memory.max"),
		)
	case hasController(controllers, "memory"):
		return hierarchyLimit(root, "sys/fs/cgroup/memory", group, "memory.limit_in_bytes")
	}
	return 0
}

func hasController(list, name string) bool {
	for controller := range strings.SplitSeq(list, ",") {
		if controller == name {
			return true
		}
	}
	return false
}

// climb returns the least limit from the group up to the mount point: each
// parent limits the sum of its children. A container often sees its own group
// mounted at the top, and the names of groups outside that are not there.
func hierarchyLimit(root fs.FS, mount, group, file string) int64 {
	var limit int64
	// Rooted, so that Clean drops the ".." of a process outside of its namespace.
	for dir := path.Clean("/" + group); ; dir = path.Dir(dir) {
		limit = smallerLimit(limit, readLimit(root, path.Join(mount, dir, file)))
		if dir == "/" {
			return limit
		}
	}
}

// limitIn reads one limit. Version 2 writes "max" for none; version 1 writes
// the greatest number of whole pages, and no real limit is near that.
func readLimit(root fs.FS, name string) int64 {
	const none = 1 << 60
	limit := parseSize(readString(root, name))
	if limit >= none {
		return 0
	}
	return limit
}

// lesser returns the lesser of two limits, of which 0 is none.
func smallerLimit(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// parseSize returns 0 for what is no positive number.
func parseSize(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0
	}
	return max(n, 0)
}

func readString(root fs.FS, name string) string {
	raw, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return string(raw)
}
