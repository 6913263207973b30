package subject_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/omnibus-go/bus/internal/subject"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	const both, literal, pattern = "is good", "is good as literal only", "is good as pattern only"
	tests := map[string]struct {
		in   string
		want string // a constant from above or a part of the reason both give
	}{
		"one token":              {"orders", both},
		"levels":                 {"orders.eu.created.v1", both},
		"server subject":         {"$JS.API.INFO", both},
		"inbox":                  {"_INBOX.abc.1", both},
		"punctuation":            {"a-b_c:d/e=f", both},
		"letters of others":      {"bestellung.größe.注文", both},
		"emoji":                  {"a.🚌", both},
		"longest":                {strings.Repeat("x", subject.MaxLength), both},
		"star":                   {"orders.*.created", pattern},
		"tail":                   {"orders.>", pattern},
		"all":                    {">", pattern},
		"one of all":             {"*", pattern},
		"star and tail":          {"*.>", pattern},
		"empty":                  {"", "is empty"},
		"dot":                    {".", "starts with a dot"},
		"leading dot":            {".orders", "starts with a dot"},
		"trailing dot":           {"orders.", "ends with a dot"},
		"double dot":             {"orders..eu", "empty token at byte 7"},
		"double dot after utf8":  {"ö..eu", "empty token at byte 3"},
		"blank":                  {"orders eu", "a blank at byte 6"},
		"tab":                    {"orders\teu", "U+0009 at byte 6"},
		"newline":                {"orders\r\nPUB x 0", "U+000D at byte 6"},
		"nul":                    {"orders.\x00", "U+0000 at byte 7"},
		"leading nul":            {"\x00orders", "U+0000 at byte 0"},
		"forged mark":            {"\x00a\x00b\nc\x00d", "U+0000 at byte 0"},
		"delete":                 {"a\x7f", "U+007F"},
		"c1 control":             {"a.\u0085", "U+0085"},
		"no-break space":         {"a\u00a0b", "the blank U+00A0"},
		"line separator":         {"a\u2028b", "the blank U+2028"},
		"not utf8":               {"a.\xff", "not valid UTF-8 at byte 2"},
		"replacement":            {"a.\uFFFD", "U+FFFD"},
		"star in token":          {"orders.foo*", `token 2, "foo*", with a wildcard character inside`},
		"tail in token":          {"a>b", `token 1, "a>b"`},
		"two stars":              {"a.**", `token 2, "**"`},
		"tail not last":          {"a.>.b", ""},
		"too long":               {strings.Repeat("x", subject.MaxLength+1), "is 1025 bytes long, the limit is 1024"},
		"too long with wildcard": {strings.Repeat("*.", 600) + "a", "is 1201 bytes long"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asLiteral, asPattern := subject.Check(tt.in), subject.CheckPattern(tt.in)
			wantProblem(t, "Check", asLiteral, tt.want == both || tt.want == literal, tt.want)
			wantProblem(t, "CheckPattern", asPattern, tt.want == both || tt.want == pattern, tt.want)
		})
	}
}

// wantProblem checks that p is nil if good, and else names the reason if that
// is not one of the constants of TestCheck.
func wantProblem(t *testing.T, call string, p *subject.Problem, good bool, reason string) {
	t.Helper()
	switch {
	case good && p != nil:
		t.Errorf("%s = %+v, want nil", call, *p)
	case !good && p == nil:
		t.Errorf("%s = nil, want a problem", call)
	case !good && !strings.HasPrefix(reason, "is good") && !strings.Contains(p.Reason, reason):
		t.Errorf("%s: reason %q, want it to contain %q", call, p.Reason, reason)
	case !good && p.Hint == "":
		t.Errorf("%s: no hint for %q", call, p.Reason)
	}
}

func TestWildcardReasons(t *testing.T) {
	t.Parallel()
	if p := subject.Check("a.*.c"); p == nil || p.Reason != `has the wildcard "*" as token 2` {
		t.Errorf("Check = %+v", p)
	}
	if p := subject.CheckPattern("a.>.c"); p == nil || p.Reason != `has tokens after ">" (token 2)` {
		t.Errorf("CheckPattern = %+v", p)
	}
}

// refCheck is our rule written in another way.
func refCheck(s string, wildcards bool) bool {
	if len(s) > subject.MaxLength || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsSpace(r) || unicode.IsControl(r) || r == utf8.RuneError {
			return false
		}
	}
	tokens := strings.Split(s, ".")
	for i, token := range tokens {
		switch {
		case token == "":
			return false
		case token == "*" && wildcards, token == ">" && wildcards && i == len(tokens)-1:
		case strings.ContainsAny(token, "*>"):
			return false
		}
	}
	return true
}

// serverCheck is what nats-server 2.15 accepts (sublist.go, isValidSubject
// with checkRunes, and isValidLiteralSubject).
func serverCheck(s string, wildcards bool) bool {
	if s == "" || strings.ContainsAny(s, "\x00\uFFFD \t\n\f\r") || !utf8.ValidString(s) {
		return false
	}
	tokens := strings.Split(s, ".")
	for i, token := range tokens {
		if token == "" || token == ">" && (i < len(tokens)-1 || !wildcards) || token == "*" && !wildcards {
			return false
		}
	}
	return true
}

func FuzzCheck(f *testing.F) {
	for _, s := range []string{"", ".", "a", "a.b", "a..b", "a.*", "a.>", "a.>.b", "foo*", "a b", "ö.é", "\xff", "\x00", "a\u2028", "\uFFFD"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		asLiteral, asPattern := subject.Check(s) == nil, subject.CheckPattern(s) == nil
		if want := refCheck(s, false); asLiteral != want {
			t.Errorf("Check(%q) good: %v, reference: %v", s, asLiteral, want)
		}
		if want := refCheck(s, true); asPattern != want {
			t.Errorf("CheckPattern(%q) good: %v, reference: %v", s, asPattern, want)
		}
		if asLiteral && !serverCheck(s, false) || asPattern && !serverCheck(s, true) {
			t.Errorf("%q is accepted, but not by the server", s)
		}
		if asLiteral && !asPattern {
			t.Errorf("%q is a good subject and no good pattern", s)
		}
	})
}
