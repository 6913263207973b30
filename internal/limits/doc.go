// Package limits computes how much memory and disk a bus uses by default. Its functions do not fail: a
// source that cannot be read is ignored. It has no state and no goroutines, and a crash leaves nothing
// behind.
package limits
