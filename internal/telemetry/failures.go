package telemetry

import "sync"

// windowSize is the number of calls in each of the two windows of Failures.
const windowSize = 100

// Failures counts how many of the latest calls failed. Old failures do not count. It costs nothing
// while no call fails. The zero value is ready to use. Safe for concurrent use.
type Failures struct {
	mu           sync.Mutex
	current      int64 // the number of the current window, from 0
	failed       int64 // failures in the current window
	failedBefore int64 // failures in the window before
}

// Record records that the n-th call failed, counted from 1. Calls may end in another order than they
// began.
func (f *Failures) Record(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.advance(windowOf(n))
	switch windowOf(n) {
	case f.current:
		f.failed++
	case f.current - 1:
		f.failedBefore++
	}
}

// Recent returns how many of the latest calls failed, and the number of those calls. n is the number
// of all calls. Up to 100, all calls are the latest; above that, the last 100 to 200 are.
func (f *Failures) Recent(n int64) (failed, calls int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.advance(windowOf(n))
	return min(f.failed+f.failedBefore, n), n - max(f.current-1, 0)*windowSize
}

// advance starts the window number if that is later than the current one.
func (f *Failures) advance(number int64) {
	switch {
	case number <= f.current:
		return
	case number == f.current+1:
		f.failedBefore = f.failed
	default:
		f.failedBefore = 0
	}
	f.current, f.failed = number, 0
}

// windowOf returns the number of the window of the n-th call.
func windowOf(n int64) int64 { return max(n-1, 0) / windowSize }
