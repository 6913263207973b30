package limits

import (
	"math"
	"unsafe"

	"golang.org/x/sys/windows"
)

var globalMemoryStatusEx = windows.NewLazySystemDLL("kernel32.dll").NewProc("GlobalMemoryStatusEx")

// memoryStatusEx is MEMORYSTATUSEX of sysinfoapi.h.
type memoryStatusEx struct {
	length                                                           uint32
	load                                                             uint32
	totalPhys, availPhys, totalPage, availPage, totalVirt, availVirt uint64
	availExtendedVirt                                                uint64
}

// systemRAM returns the RAM in bytes, or 0.
func systemRAM() int64 {
	var status memoryStatusEx
	status.length = uint32(unsafe.Sizeof(status))
	if globalMemoryStatusEx.Find() != nil {
		return 0
	}
	ok, _, _ := globalMemoryStatusEx.Call(uintptr(unsafe.Pointer(&status)))
	if ok == 0 || status.totalPhys > math.MaxInt64 {
		return 0
	}
	return int64(status.totalPhys)
}
