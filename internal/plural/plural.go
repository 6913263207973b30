// Package plural writes counts for people: "1 message", "2 messages". It has no state.
package plural

import "fmt"

// Of returns n with the words for one, or with those for any other number.
func Of[N int | int64 | uint64](n N, one, others string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, others)
}
