package subject_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/omnibus-go/bus/internal/subject"
)

func TestFill(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		pattern string
		tokens  []string
		want    string
	}{
		"literal":        {"orders.created", nil, "orders.created"},
		"one":            {"orders.*.created", []string{"eu"}, "orders.eu.created"},
		"first and last": {"*.x.*", []string{"a", "b"}, "a.x.b"},
		"only star":      {"*", []string{"a"}, "a"},
		"tail one":       {"orders.>", []string{"a"}, "orders.a"},
		"tail three":     {"orders.>", []string{"a", "b", "c"}, "orders.a.b.c"},
		"star and tail":  {"*.>", []string{"a", "b", "c"}, "a.b.c"},
		"only tail":      {">", []string{"a", "b"}, "a.b"},
		"utf8":           {"k.*", []string{"größe"}, "k.größe"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := subject.Fill(tt.pattern, tt.tokens...)
			if got != tt.want || subject.Check(got) != nil || subject.Original(got) != got {
				t.Errorf("Fill = %q (%+v), want %q", got, subject.Check(got), tt.want)
			}
		})
	}
}

func TestFillRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", subject.MaxLength+1)
	tests := map[string]struct {
		pattern string
		tokens  []string
		reason  string
	}{
		"too few":        {"a.*.*", []string{"x"}, "was filled with 1 token, it needs 2"},
		"none":           {"a.*", nil, "was filled with 0 tokens, it needs 1"},
		"too many":       {"a.*", []string{"x", "y"}, "was filled with 2 tokens, it needs 1"},
		"for literal":    {"a", []string{"x"}, "was filled with 1 token, it needs 0"},
		"none for tail":  {"a.*.>", []string{"x"}, "was filled with 1 token, it needs 2 or more"},
		"empty":          {"a.*", []string{""}, `was filled with a bad token 1, "", that is empty`},
		"dot":            {"a.*.*", []string{"x", "b.c"}, `was filled with a bad token 2, "b.c", that contains a dot`},
		"dot in tail":    {"a.>", []string{"x", "b.c"}, `was filled with a bad token 2, "b.c", that contains a dot`},
		"star":           {"a.*", []string{"*"}, `was filled with a bad token 1, "*", that contains a wildcard character`},
		"tail":           {"a.*", []string{">"}, `was filled with a bad token 1, ">", that contains a wildcard character`},
		"star inside":    {"a.*", []string{"b*"}, `was filled with a bad token 1, "b*", that contains a wildcard character`},
		"blank":          {"a.*", []string{"b c"}, `was filled with a bad token 1, "b c", that contains a blank at byte 1`},
		"newline":        {"a.*", []string{"b\nc"}, `was filled with a bad token 1, "b\nc", that contains the control character U+000A at byte 1`},
		"not utf8":       {"a.*", []string{"\xff"}, `was filled with a bad token 1, "\xff", that contains a byte that is not valid UTF-8 at byte 0`},
		"long":           {"a.*", []string{long}, "that is 1025 bytes long, the limit is 1024"},
		"bad pattern":    {"a..*", []string{"x"}, "is a pattern that has an empty token at byte 2 (two dots in a row)"},
		"pattern inside": {"foo*", []string{"x"}, `is a pattern that has token 1, "foo*", with a wildcard character inside`},
		"empty pattern":  {"", nil, "is a pattern that is empty"},
		"nul pattern":    {"a\x00b", nil, "is a pattern that contains the control character U+0000 at byte 1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			marked := subject.Fill(tt.pattern, tt.tokens...)
			for call, p := range map[string]*subject.Problem{
				"Check":              subject.Check(marked),
				"CheckPattern":       subject.CheckPattern(marked),
				"Check after a Fill": subject.Check(subject.Fill(marked, "more")),
			} {
				if p == nil || !strings.Contains(p.Reason, tt.reason) || p.Hint == "" {
					t.Errorf("%s = %+v, want the reason %q", call, p, tt.reason)
				}
			}
			if got := subject.Original(marked); got != tt.pattern {
				t.Errorf("Original = %q, want %q", got, tt.pattern)
			}
			if subject.Matches(">", marked) && subject.Check(marked) == nil {
				t.Error("a marked string is accepted")
			}
		})
	}
}

func TestFillTooLong(t *testing.T) {
	t.Parallel()
	half := strings.Repeat("x", subject.MaxLength/2)
	if p := subject.Check(subject.Fill("*.*", half, half)); p == nil || !strings.Contains(p.Reason, "is 1025 bytes long") {
		t.Errorf("Check = %+v", p)
	}
}

func TestOriginalKeepsForeignText(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "a.b", "\x00", "\x00a", "\x00a\x00b\x00c", "\x00\"a\"\x00\n\x00c"} {
		if got := subject.Original(s); got != s {
			t.Errorf("Original(%q) = %q", s, got)
		}
	}
}

func FuzzFill(f *testing.F) {
	f.Add("a.*", "x", "", uint8(1))
	f.Add("a.*.>", "x", "y.z", uint8(2))
	f.Add(">", "*", "\x00", uint8(2))
	f.Add("*.*", "a b", ">", uint8(2))
	f.Add("\x00\"a\"\x00b\x00c", "x", "", uint8(0))
	f.Fuzz(func(t *testing.T, pattern, first, second string, count uint8) {
		tokens := []string{first, second}[:count%3]
		got := subject.Fill(pattern, tokens...)
		if p := subject.Check(got); p != nil {
			if p.Reason == "" || subject.CheckPattern(got) == nil {
				t.Errorf("Fill(%q, %q) = %q: %+v, pattern %+v", pattern, tokens, got, p, subject.CheckPattern(got))
			}
			return
		}
		levels := strings.Count(pattern, ".") + 1
		if strings.HasSuffix(pattern, ">") {
			levels += len(tokens) - strings.Count(pattern, "*") - 1
		}
		if n := strings.Count(got, ".") + 1; n != levels {
			t.Errorf("Fill(%q, %q) = %q has %d levels, want %d", pattern, tokens, got, n, levels)
		}
		back, ok := subject.Match(pattern, got)
		if !ok || !slices.Equal(back, tokens) {
			t.Errorf("Match(%q, %q) = %q, %v, want %q", pattern, got, back, ok, tokens)
		}
	})
}
