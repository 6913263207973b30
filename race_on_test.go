//go:build race

package bus_test

// underRace is how much of something a test does under the race detector, where it
// takes several times as long. The run without it does all.
func underRace(little, _ int) int { return little }
