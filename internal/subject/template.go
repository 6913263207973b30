package subject

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// maxTemplates limits the memory for a program that makes its patterns from identifiers.
const maxTemplates = 1024

// templates are the patterns that Fill has filled. byFirst has them by the first token, the most
// specific first. A templates never changes; remember stores a new one. So readers need no
// lock.
type templates struct {
	known   map[string]struct{}
	byFirst map[string][]string
}

// seen belongs to the process, because patterns are usually constants of the program.
var seen struct {
	sync.Mutex // of writers
	now        atomic.Pointer[templates]
}

// Template returns the most specific pattern from which Fill may have made the subject. If there
// is none it returns the subject. Metrics use it as a label, because there are few templates
// and many subjects.
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

// remember records that pattern was filled. It does not record a pattern that starts with a
// wildcard, because that would match subjects of other patterns.
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

// with returns a copy of t with pattern. t may be nil.
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
