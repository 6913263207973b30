package telemetry

import "sync"

// window is how many calls one of the two windows of Failures has.
const window = 100

// Failures counts how many of the latest calls failed, so that what a thing did
// yesterday says nothing about how it is now. It costs nothing while none fails.
// The zero value is ready to use. Safe for concurrent use.
type Failures struct {
	mu     sync.Mutex
	number int64 // of the window of latest
	latest int64 // failures in it
	before int64 // in the window before it
}

// Note notes that the n-th call failed, from 1. Calls may end in another order than
// they began.
func (f *Failures) Note(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moveTo(windowOf(n))
	switch windowOf(n) {
	case f.number:
		f.latest++
	case f.number - 1:
		f.before++
	}
}

// Of returns how many of the latest calls failed when there were n in all, and how
// many those are: all up to 100 of them, from then on the last 100 to 200.
func (f *Failures) Of(n int64) (failed, calls int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moveTo(windowOf(n))
	return min(f.latest+f.before, n), n - max(f.number-1, 0)*window
}

// moveTo begins the window number, if that is a later one.
func (f *Failures) moveTo(number int64) {
	switch {
	case number <= f.number:
		return
	case number == f.number+1:
		f.before = f.latest
	default:
		f.before = 0
	}
	f.number, f.latest = number, 0
}

func windowOf(n int64) int64 { return max(n-1, 0) / window }
