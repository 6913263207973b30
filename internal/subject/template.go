package subject

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// maxTemplates bounds what is remembered of a program that makes its patterns
// from identifiers.
const maxTemplates = 1024

// templates are patterns that Fill has filled, by their first token and the most
// specific first. It is replaced, never changed: reading takes no lock.
type templates struct {
	known   map[string]struct{}
	byFirst map[string][]string
}

// filled is shared by the whole process, as the patterns are: constants of it.
var seen struct {
	sync.Mutex // of writers
	now        atomic.Pointer[templates]
}

// Template returns the most specific pattern from which Fill may have made the
// literal subject, or the subject itself where there is none. It is a name with
// few values for what goes out under many subjects.
func Template(subject string) string {
	t := seen.now.Load()
	if t == nil {
		return subject
	}
	first, _, _ := next(subject)
	for _, pattern := range t.byFirst[first] {
		if Matches(pattern, subject) {
			return pattern
		}
	}
	return subject
}

// learn remembers that pattern was filled; but not one that begins with a wildcard,
// which would fit what others have made.
func remember(pattern string) {
	if first, _, _ := next(pattern); first == anyToken || first == anyTail {
		return
	}
	if t := seen.now.Load(); t != nil {
		if _, known := t.known[pattern]; known || len(t.known) >= maxTemplates {
			return
		}
	}
	seen.Lock()
	defer seen.Unlock()
	seen.now.Store(seen.now.Load().with(strings.Clone(pattern)))
}

// with returns t, which may be nil, and pattern.
func (t *templates) with(pattern string) *templates {
	next := &templates{known: map[string]struct{}{}, byFirst: map[string][]string{}}
	if t != nil {
		next = &templates{known: maps.Clone(t.known), byFirst: maps.Clone(t.byFirst)}
	}
	if _, known := next.known[pattern]; known {
		return t
	}
	next.known[pattern] = struct{}{}
	first, _, _ := strings.Cut(pattern, ".")
	list := append(slices.Clone(next.byFirst[first]), pattern)
	slices.SortFunc(list, func(a, b string) int {
		if MoreSpecific(a, b) {
			return -1
		}
		return 1
	})
	next.byFirst[first] = list
	return next
}
