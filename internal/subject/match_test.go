package subject_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/omnibus-go/bus/internal/subject"
)

func TestMatch(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern, subject string
		tokens           []string
		ok               bool
	}{
		{"a", "a", nil, true},
		{"a.b", "a.b", nil, true},
		{"a", "b", nil, false},
		{"a", "a.b", nil, false},
		{"a.b", "a", nil, false},
		{"ab", "a", nil, false},
		{"*", "a", []string{"a"}, true},
		{"*", "a.b", nil, false},
		{"a.*", "a", nil, false},
		{"a.*.c", "a.b.c", []string{"b"}, true},
		{"*.*", "a.b", []string{"a", "b"}, true},
		{">", "a", []string{"a"}, true},
		{">", "a.b.c", []string{"a", "b", "c"}, true},
		{"a.>", "a", nil, false},
		{"a.>", "a.b.c", []string{"b", "c"}, true},
		{"a.>", "b.c", nil, false},
		{"*.x.>", "a.x.b.c", []string{"a", "b", "c"}, true},
		{"a.*.>", "a.b", nil, false},
		{"größe.*", "größe.注文", []string{"注文"}, true},
	}
	for _, tt := range tests {
		tokens, ok := subject.Match(tt.pattern, tt.subject)
		if ok != tt.ok || !slices.Equal(tokens, tt.tokens) {
			t.Errorf("Match(%q, %q) = %q, %v", tt.pattern, tt.subject, tokens, ok)
		}
		if got := subject.Matches(tt.pattern, tt.subject); got != tt.ok {
			t.Errorf("Matches(%q, %q) = %v", tt.pattern, tt.subject, got)
		}
	}
}

// refMatch is the rule of matching over split tokens.
func refMatch(pattern, s []string) ([]string, bool) {
	switch {
	case len(pattern) == 0 || len(s) == 0:
		return nil, len(pattern) == len(s)
	case pattern[0] == ">":
		return s, true
	case pattern[0] != "*" && pattern[0] != s[0]:
		return nil, false
	}
	rest, ok := refMatch(pattern[1:], s[1:])
	if ok && pattern[0] == "*" {
		return append([]string{s[0]}, rest...), true
	}
	return rest, ok
}

func split(s string) []string { return strings.Split(s, ".") }

func FuzzMatch(f *testing.F) {
	f.Add("a.*", "a.b")
	f.Add("a.>", "a.b.c")
	f.Add("*.*.>", "a.b")
	f.Add("", "")
	f.Add("a..b", "a..b")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		tokens, ok := subject.Match(pattern, s) // must not panic on anything
		subject.Overlap(pattern, s)
		subject.MoreSpecific(pattern, s)
		if subject.CheckPattern(pattern) != nil || subject.Check(s) != nil {
			return
		}
		wantTokens, want := refMatch(split(pattern), split(s))
		if ok != want || !slices.Equal(tokens, wantTokens) || subject.Matches(pattern, s) != want {
			t.Errorf("Match(%q, %q) = %q, %v, want %q, %v", pattern, s, tokens, ok, wantTokens, want)
		}
		if subject.Overlap(pattern, s) != want || subject.Overlap(s, pattern) != want {
			t.Errorf("Overlap(%q, %q) differs from Match %v", pattern, s, want)
		}
	})
}

// words returns every subject of 1 to most tokens over the alphabet.
func words(most int, alphabet ...string) []string {
	var all []string
	layer := []string{""}
	for range most {
		var longer []string
		for _, prefix := range layer {
			for _, token := range alphabet {
				longer = append(longer, strings.TrimPrefix(prefix+"."+token, "."))
			}
		}
		all = append(all, longer...)
		layer = longer
	}
	return all
}

// patterns returns every good pattern of up to three tokens over a and b.
func patterns() []string {
	return slices.DeleteFunc(words(3, "a", "b", "*", ">"), func(s string) bool {
		return subject.CheckPattern(s) != nil
	})
}

// matched returns, for each of the patterns, which subjects of a small world it
// matches: one letter and one level more than the patterns have.
func matched(patterns []string) [][]bool {
	subjects := words(4, "a", "b", "c")
	sets := make([][]bool, len(patterns))
	for i, p := range patterns {
		for _, s := range subjects {
			sets[i] = append(sets[i], subject.Matches(p, s))
		}
	}
	return sets
}

// TestOverlap compares Overlap with what it means.
func TestOverlap(t *testing.T) {
	t.Parallel()
	all := patterns()
	sets := matched(all)
	for i, a := range all {
		for j, b := range all {
			want := slices.Contains(both(sets[i], sets[j]), true)
			if got := subject.Overlap(a, b); got != want {
				t.Errorf("Overlap(%q, %q) = %v", a, b, got)
			}
		}
	}
}

// both is the intersection of two sets.
func both(a, b []bool) []bool {
	c := slices.Clone(a)
	for i := range c {
		c[i] = c[i] && b[i]
	}
	return c
}

func TestMoreSpecific(t *testing.T) {
	t.Parallel()
	order := []string{"a.b.c", "a.b.*", "a.b.>", "a.*.c", "a.*.*", "a.*.>", "a.>", "*.b.c", "*.>", ">"}
	for i, a := range order {
		for j, b := range order {
			if got := subject.MoreSpecific(a, b); got != (i < j) {
				t.Errorf("MoreSpecific(%q, %q) = %v", a, b, got)
			}
		}
	}
}

// TestMoreSpecificIsTotal checks what sorting needs, and that a pattern never
// hides a narrower one behind it.
func TestMoreSpecificIsTotal(t *testing.T) {
	t.Parallel()
	all := patterns()
	slices.SortFunc(all, func(a, b string) int {
		switch {
		case subject.MoreSpecific(a, b):
			return -1
		case subject.MoreSpecific(b, a):
			return 1
		}
		return 0
	})
	sets := matched(all)
	for i, a := range all {
		for j, b := range all {
			if got := subject.MoreSpecific(a, b); got != (i < j) {
				t.Fatalf("MoreSpecific(%q, %q) = %v, but they were sorted to %d and %d", a, b, got, i, j)
			}
			if i < j && slices.Equal(both(sets[i], sets[j]), sets[j]) {
				t.Errorf("%q goes before %q and hides it", a, b)
			}
		}
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	patterns := []string{">", "*", "a", "b", "a.>", "*.>", "a.*", "*.b", "*.*", "a.b", "a.b.>", "a.*.c", "a.b.c"}
	subjects := []string{"a", "b", "c", "a.b", "a.c", "c.b", "c.d", "a.b.c", "a.c.c", "a.b.d", "c.d.e", "a.b.c.d"}
	for _, wide := range patterns {
		for _, narrow := range patterns {
			want := true
			for _, s := range subjects { // which tell any two of the patterns apart
				want = want && (subject.Matches(wide, s) || !subject.Matches(narrow, s))
			}
			if got := subject.Covers(wide, narrow); got != want {
				t.Errorf("Covers(%q, %q) = %v", wide, narrow, got)
			}
		}
	}
}
