//go:build !linux && !darwin && !freebsd && !windows

package limits

func statDisk(string) (total int64, ok bool) { return 0, false }
