package limits

import "golang.org/x/sys/windows"

func statDisk(path string) (total int64, ok bool) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, false
	}
	var totalBytes uint64 // of this user's quota
	if err := windows.GetDiskFreeSpaceEx(name, nil, &totalBytes, nil); err != nil {
		return 0, false
	}
	return bytesOf(totalBytes, 1), true
}
