package limits_test

import (
	"testing"
	"testing/fstest"

	"github.com/omnibus-go/bus/internal/limits"
)

// machine builds a file system from the text of its files.
func machine(files map[string]string) fstest.MapFS {
	root := fstest.MapFS{}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return root
}

func TestCgroupMemory(t *testing.T) {
	t.Parallel()
	const (
		self   = "proc/self/cgroup"
		top    = "sys/fs/cgroup/"
		v1     = "sys/fs/cgroup/memory/"
		v1None = "9223372036854771712\n"
	)
	tests := map[string]struct {
		files map[string]string
		want  int64
	}{
		"no cgroups": {nil, 0},
		"v2 in a container": {map[string]string{
			self: "0::/\n", top + "memory.max": "536870912\n",
		}, 512 * mib},
		"v2 max": {map[string]string{
			self: "0::/\n", top + "memory.max": "max\n",
		}, 0},
		"v2 root has no file": {map[string]string{
			self: "0::/user.slice\n", top + "user.slice/memory.max": "max\n",
		}, 0},
		"v2 own limit": {map[string]string{
			self: "0::/a/b\n", top + "a/b/memory.max": "1048576\n", top + "a/memory.max": "2097152\n",
		}, mib},
		"v2 limit of a parent": {map[string]string{
			self: "0::/a/b/c\n", top + "a/b/c/memory.max": "max\n", top + "a/b/memory.max": "2097152\n", top + "a/memory.max": "1048576\n",
		}, mib},
		"v2 limit of another group": {map[string]string{
			self: "0::/a\n", top + "b/memory.max": "1048576\n",
		}, 0},
		"v2 group is not mounted": {map[string]string{
			self: "0::/kubepods/pod1/c1\n", top + "memory.max": "1048576\n",
		}, mib},
		"v2 outside of the namespace": {map[string]string{
			self: "0::/../../x\n", top + "memory.max": "2097152\n", top + "x/memory.max": "1048576\n",
		}, mib},
		"v2 name with a colon": {map[string]string{
			self: "0::/a:b\n", top + "a:b/memory.max": "1048576\n",
		}, mib},
		"v2 without a line end": {map[string]string{
			self: "0::/a", top + "a/memory.max": "1048576",
		}, mib},
		"v1": {map[string]string{
			self: "5:cpu,cpuacct:/c\n4:memory:/a\n1:name=systemd:/s\n", v1 + "a/memory.limit_in_bytes": "1048576\n", v1 + "memory.limit_in_bytes": v1None,
		}, mib},
		"v1 none": {map[string]string{
			self: "4:memory:/\n", v1 + "memory.limit_in_bytes": v1None,
		}, 0},
		"v1 nested": {map[string]string{
			self: "4:memory:/a/b\n", v1 + "a/b/memory.limit_in_bytes": v1None, v1 + "a/memory.limit_in_bytes": "1048576\n",
		}, mib},
		"v1 in a container": {map[string]string{
			self: "4:memory:/docker/0123\n", v1 + "memory.limit_in_bytes": "1048576\n",
		}, mib},
		"v1 with other controllers": {map[string]string{
			self: "4:hugetlb,memory:/a\n", v1 + "a/memory.limit_in_bytes": "1048576\n",
		}, mib},
		"v1 without memory": {map[string]string{
			self: "4:cpu:/\n", v1 + "memory.limit_in_bytes": "1048576\n",
		}, 0},
		"hybrid, v1 counts": {map[string]string{
			self: "4:memory:/a\n0::/a\n", v1 + "a/memory.limit_in_bytes": "1048576\n", top + "unified/a/cgroup.procs": "1\n",
		}, mib},
		"hybrid, v2 counts": {map[string]string{
			self: "4:cpu:/a\n0::/a\n", top + "unified/a/memory.max": "1048576\n",
		}, mib},
		"nonsense": {map[string]string{
			self: "\n0\n0:\n::\n0::/a\n", top + "a/memory.max": "lots\n", top + "memory.max": "-5\n",
		}, 0},
		"too large": {map[string]string{
			self: "0::/\n", top + "memory.max": "99999999999999999999\n",
		}, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := limits.CgroupMemory(machine(tt.files)); got != tt.want {
				t.Errorf("CgroupMemory = %d, want %d", got, tt.want)
			}
		})
	}
}

func TestMeminfoTotal(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text string
		want int64
	}{
		"usual":     {"MemTotal:        1048576 kB\nMemFree:          100 kB\n", gib},
		"not first": {"MemFree: 100 kB\nMemTotal: 1024 kB\n", mib},
		"missing":   {"MemFree: 100 kB\n", 0},
		"nonsense":  {"MemTotal: much kB\n", 0},
		"too large": {"MemTotal: 9223372036854775807 kB\n", 0},
		"empty":     {"", 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := limits.MeminfoTotal(machine(map[string]string{"proc/meminfo": tt.text})); got != tt.want {
				t.Errorf("MeminfoTotal = %d, want %d", got, tt.want)
			}
		})
	}
	if got := limits.MeminfoTotal(machine(nil)); got != 0 {
		t.Errorf("without the file: %d", got)
	}
}
