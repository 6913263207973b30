package subject

import (
	"slices"
	"strings"
)

// Covering returns one pattern that matches every subject that one of filters matches. It may
// match more subjects. filters must not be empty.
func Covering(filters []string) string {
	all := strings.Split(filters[0], ".")
	for _, filter := range filters[1:] {
		tokens := strings.Split(filter, ".")
		if n := min(len(tokens), len(all)); len(tokens) != len(all) || all[n-1] == ">" || tokens[n-1] == ">" {
			all = append(all[:n-1:n-1], ">")
		}
		for i, token := range tokens[:len(all)-1] {
			if all[i] != token {
				all[i] = "*"
			}
		}
		if last := len(all) - 1; all[last] != ">" && all[last] != tokens[last] {
			all[last] = "*"
		}
	}
	return strings.Join(all, ".")
}

// Uncovered returns the patterns of want that no pattern of have covers.
func Uncovered(want, have []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(w string) bool {
		return slices.ContainsFunc(have, func(h string) bool { return Covers(h, w) })
	})
}
