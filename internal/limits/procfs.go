package limits

import (
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// The functions in this file read files of Linux. They take the root of the file system, so that tests
// can use files of any machine. They return 0 for "unknown" and for "no limit".

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

// CgroupMemory returns the smallest memory limit of the cgroups of this process, of version 1 and 2.
// proc/self/cgroup lists these cgroups.
func CgroupMemory(root fs.FS) int64 {
	var limit int64
	for line := range strings.Lines(readString(root, "proc/self/cgroup")) {
		limit = smallerLimit(limit, cgroupLimit(root, strings.TrimSuffix(line, "\n")))
	}
	return limit
}

// cgroupLimit returns the limit for one line of proc/self/cgroup: hierarchy number, controllers, path.
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

// hasController reports whether the list of controllers has name.
func hasController(list, name string) bool {
	for controller := range strings.SplitSeq(list, ",") {
		if controller == name {
			return true
		}
	}
	return false
}

// hierarchyLimit returns the smallest limit of the group and its parents up to the mount point, because
// each parent limits the sum of its children. In a container its own group is often the mount
// point, and the outer groups do not exist.
func hierarchyLimit(root fs.FS, mount, group, file string) int64 {
	var limit int64
	// The leading slash makes Clean remove the ".." of a process outside of its namespace.
	for dir := path.Clean("/" + group); ; dir = path.Dir(dir) {
		limit = smallerLimit(limit, readLimit(root, path.Join(mount, dir, file)))
		if dir == "/" {
			return limit
		}
	}
}

// readLimit reads one limit. Version 2 has "max" for no limit. Version 1 has the largest number of whole
// pages, which is far above every real limit.
func readLimit(root fs.FS, name string) int64 {
	const none = 1 << 60
	limit := parseSize(readString(root, name))
	if limit >= none {
		return 0
	}
	return limit
}

// smallerLimit returns the smaller one of two limits. 0 is no limit.
func smallerLimit(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// parseSize returns the number in s, or 0 if it is not a positive number.
func parseSize(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0
	}
	return max(n, 0)
}

// readString returns the content of a file, or "".
func readString(root fs.FS, name string) string {
	raw, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return string(raw)
}
