//go:build !race

package bus_test

// underRace is how much of something a test does: all, without the race detector.
func underRace(_, all int) int { return all }
