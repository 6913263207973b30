package limits

import "golang.org/x/sys/windows"

// statDisk returns the size of the file system of path.
func statDisk(path string) (total int64, ok bool) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, false
	}
	var totalBytes uint64 // limited by the quota of the user
	if err := windows.GetDiskFreeSpaceEx(name, nil, &totalBytes, nil); err != nil {
		return 0, false
	}
	return bytesOf(totalBytes, 1), true
}
