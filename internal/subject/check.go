package subject

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxLength is the length of the longest accepted subject or pattern, in bytes.
//
// The server allows 4096 bytes for a protocol line, which has the subject, the reply subject
// and the sizes. A quarter of that leaves room for the reply subject, and for subjects that
// have another subject after a prefix (direct get, consumer create, dead letters).
const MaxLength = 1024

// Problem is the reason why a subject is refused.
type Problem struct {
	// Reason continues a sentence that starts with the subject: "ends with a dot".
	Reason string
	// Hint is what to write instead. It may be empty.
	Hint string
}

// Check returns nil if a message can be published to s. It does not allocate for a good subject.
func Check(s string) *Problem {
	if isPlain(s) {
		return nil
	}
	return explain(s, false)
}

// CheckPattern returns nil if s is a subject as for [Check], or a pattern.
func CheckPattern(s string) *Problem {
	if isPlainPattern(s) {
		return nil
	}
	return explain(s, true)
}

// The classes of bytes for isPlain and isPlainPattern.
const (
	classOther = iota // explain decides
	classPlain
	classDot
	classWild
)

// classes has the class of each byte. It is a table because every publish uses it.
var classes = func() (t [256]uint8) {
	for c := '!'; c <= '~'; c++ {
		t[c] = classPlain
	}
	t['*'], t['>'] = classWild, classWild
	t['.'] = classDot
	return t
}()

// isPlain reports whether s is a good subject in ASCII without wildcards. If it returns false, s
// may still be good; explain decides.
func isPlain(s string) bool {
	if len(s) > MaxLength {
		return false
	}
	last := uint8(classDot) // a leading dot then counts as the second of two
	for i := 0; i < len(s); i++ {
		class := classes[s[i]]
		if class == classOther || class == classWild || class+last == classDot+classDot {
			return false
		}
		last = class
	}
	return last == classPlain
}

// isPlainPattern does the same for patterns.
func isPlainPattern(s string) bool {
	if len(s) > MaxLength {
		return false
	}
	last := uint8(classDot)
	for i := 0; i < len(s); i++ {
		class := classes[s[i]]
		switch {
		case class == classPlain && last != classWild:
		case class == classDot && last != classDot:
		case class == classWild && last == classDot && (s[i] == '*' || i == len(s)-1):
		default:
			return false
		}
		last = class
	}
	return last != classDot
}

// explain checks s by all rules. It checks the rules with the most helpful problems first.
func explain(s string, wildcards bool) *Problem {
	switch {
	case s == "":
		return &Problem{"is empty", "give it at least one token, such as \"orders\""}
	case isMarked(s):
		return unmark(s)
	case len(s) > MaxLength:
		return &Problem{
			fmt.Sprintf("is %d bytes long, the limit is %d", len(s), MaxLength),
			"put data into the message, not into its subject",
		}
	}
	if p := checkRunes(s); p != nil {
		return p
	}
	if p := checkDots(s); p != nil {
		return p
	}
	return checkWildcards(s, wildcards)
}

// checkRunes refuses characters that no token may have.
func checkRunes(s string) *Problem {
	for i, r := range s {
		if what := runeProblem(s[i:], r); what != "" {
			return &Problem{
				fmt.Sprintf("contains %s at byte %d", what, i),
				"use visible characters only, without blanks",
			}
		}
	}
	return nil
}

// runeProblem returns what is wrong with r, the first rune of s, or "".
func runeProblem(s string, r rune) string {
	switch {
	case r == ' ':
		return "a blank"
	case r < utf8.RuneSelf && r > ' ' && r < 0x7f:
		return ""
	case r == utf8.RuneError:
		// The server refuses U+FFFD too: it is left by a bad conversion.
		if _, size := utf8.DecodeRuneInString(s); size == 1 {
			return "a byte that is not valid UTF-8"
		}
		return "the replacement character U+FFFD"
	case unicode.IsControl(r):
		return fmt.Sprintf("the control character %U", r)
	case unicode.IsSpace(r):
		return fmt.Sprintf("the blank %U", r)
	}
	return ""
}

// checkDots refuses empty tokens.
func checkDots(s string) *Problem {
	switch {
	case s[0] == '.':
		return &Problem{"starts with a dot", "remove the dot: each token needs at least one character"}
	case s[len(s)-1] == '.':
		return &Problem{"ends with a dot", "remove the dot: each token needs at least one character"}
	}
	if i := strings.Index(s, ".."); i >= 0 {
		return &Problem{
			fmt.Sprintf("has an empty token at byte %d (two dots in a row)", i+1),
			"fill the token or remove a dot",
		}
	}
	return nil
}

// checkWildcards refuses "*" and ">" where they are not allowed, and where they would not be
// wildcards.
func checkWildcards(s string, allowed bool) *Problem {
	rest, more := s, true
	for n := 1; more; n++ {
		var token string
		token, rest, more = next(rest)
		if p := checkWildcard(token, n, more, allowed); p != nil {
			return p
		}
	}
	return nil
}

// checkWildcard checks token n of a subject. more is true if another token follows.
func checkWildcard(token string, n int, more, allowed bool) *Problem {
	switch {
	case !strings.ContainsAny(token, "*>"):
		return nil
	case len(token) > 1:
		// For the server "foo*" is a token without a wildcard. Nobody means that.
		return &Problem{
			fmt.Sprintf("has token %d, %q, with a wildcard character inside", n, clip(token)),
			"a wildcard stands for whole tokens: \"foo.*\", not \"foo*\"",
		}
	case !allowed:
		return &Problem{
			fmt.Sprintf("has the wildcard %q as token %d", token, n),
			"a message goes to one literal subject: replace each wildcard by a value",
		}
	case token == ">" && more:
		return &Problem{
			fmt.Sprintf("has tokens after \">\" (token %d)", n),
			"\">\" is allowed at the end only: use \"*\" for one token",
		}
	}
	return nil
}

// next splits s after the first token. more is true if another token follows.
func next(s string) (token, rest string, more bool) {
	// A loop is faster than strings.Cut here, because tokens are short.
	for i := 0; i < len(s); i++ {
		if s[i] == '.' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// clip shortens a value for an error text.
func clip(s string) string {
	const shown = 64
	if len(s) <= shown {
		return s
	}
	return s[:shown] + "…"
}
