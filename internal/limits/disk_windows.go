package limits

import "golang.org/x/sys/windows"

func statDisk(path string) (total, free int64, ok bool) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, 0, false
	}
	// Both sizes respect the quota of this user.
	var availBytes, totalBytes uint64
	if err := windows.GetDiskFreeSpaceEx(name, &availBytes, &totalBytes, nil); err != nil {
		return 0, 0, false
	}
	return bytesOf(totalBytes, 1), bytesOf(availBytes, 1), true
}
