package subject_test

import (
	"slices"
	"testing"

	"github.com/omnibus-go/bus/internal/subject"
)

// TestFind compares Find with Matches and MoreSpecific, for every pair of patterns of
// a small world.
func TestFind(t *testing.T) {
	t.Parallel()
	all := patterns()
	for _, a := range all {
		for _, b := range all {
			tree := subject.NewTree([]string{a, b})
			for _, s := range words(4, "a", "b", "c") {
				want := ""
				for _, p := range []string{a, b} {
					if subject.Matches(p, s) && (want == "" || subject.MoreSpecific(p, want)) {
						want = p
					}
				}
				if got := tree.Find(s); got != want {
					t.Fatalf("of %q and %q Find(%q) = %q, want %q", a, b, s, got, want)
				}
			}
		}
	}
}

func TestFindInNothing(t *testing.T) {
	t.Parallel()
	if p := subject.NewTree(nil).Find("a"); p != "" {
		t.Errorf("got %q", p)
	}
}

func FuzzFind(f *testing.F) {
	f.Add("a.*", "a.>", "a.b")
	f.Add("", ">", "")
	f.Add("..", "*.", "a..b")
	f.Fuzz(func(t *testing.T, a, b, s string) {
		found := subject.NewTree([]string{a, b}).Find(s) // must not panic on anything
		if subject.CheckPattern(a) != nil || subject.CheckPattern(b) != nil || subject.Check(s) != nil {
			return
		}
		if matches := slices.ContainsFunc([]string{a, b}, func(p string) bool { return subject.Matches(p, s) }); matches != (found != "") {
			t.Errorf("of %q and %q Find(%q) = %q", a, b, s, found)
		}
		if found != "" && !subject.Matches(found, s) {
			t.Errorf("Find(%q) = %q, which does not match", s, found)
		}
	})
}
