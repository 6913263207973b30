package subject_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/omnibus-go/bus/internal/subject"
)

func TestCovering(t *testing.T) {
	t.Parallel()
	for patterns, want := range map[string]string{
		"a":             "a",
		"a.b a.b":       "a.b",
		"a.b a.c":       "a.*",
		"a.b c.b":       "*.b",
		"a.b a.b.c":     "a.>",
		"a.b.c a.d":     "a.>",
		"a a.b":         ">",
		"a.> a.b":       "a.>",
		"a.b.> a.c.d":   "a.*.>",
		"a.b a.>":       "a.>",
		"a.*.c a.b.d":   "a.*.*",
		"a.b x.y p.q.r": "*.>",
		"> a.b":         ">",
	} {
		got := subject.Covering(strings.Fields(patterns))
		if got != want {
			t.Errorf("%s: got %s, want %s", patterns, got, want)
		}
		for p := range strings.FieldsSeq(patterns) {
			if !subject.Covers(got, p) {
				t.Errorf("%s: %s does not cover %s", patterns, got, p)
			}
		}
	}
}

func TestUncovered(t *testing.T) {
	t.Parallel()
	got := subject.Uncovered([]string{"a.b", "a.*", "b.>", "c"}, []string{"a.*", "b.x", "c"})
	if !slices.Equal(got, []string{"b.>"}) {
		t.Errorf("got %v", got)
	}
	if got := subject.Uncovered([]string{"a"}, nil); !slices.Equal(got, []string{"a"}) {
		t.Errorf("without patterns got %v", got)
	}
}
