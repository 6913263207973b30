package subject

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Fill replaces each "*" of pattern, in order, with one of tokens. It replaces a final ">" with
// all remaining tokens, of which there must be at least one.
//
// Fill prevents injection: a token cannot add a level or a wildcard. A good token is not empty
// and is a subject without dots for [Check]. Fill returns no error. After a mistake it returns
// a marked string instead, and [Check] and [CheckPattern] refuse that with the mistake. Fill
// returns a marked pattern unchanged.
//
// [Template] returns the pattern of a filled subject.
func Fill(pattern string, tokens ...string) string {
	if isMarked(pattern) {
		return pattern
	}
	if p := CheckPattern(pattern); p != nil {
		return mark(pattern, "is a pattern that "+p.Reason, p.Hint)
	}
	if p := checkCount(pattern, len(tokens)); p != nil {
		return mark(pattern, p.Reason, p.Hint)
	}
	size := len(pattern)
	for i, token := range tokens {
		if p := checkToken(token); p != nil {
			return mark(pattern, fmt.Sprintf("was filled with a bad token %d, %q, that %s", i+1, clip(token), p.Reason), p.Hint)
		}
		size += len(token) + 1
	}
	if len(tokens) == 0 {
		return pattern
	}
	remember(pattern)
	return fill(pattern, tokens, size)
}

// fill does the work of Fill for checked input. size is the expected length.
func fill(pattern string, tokens []string, size int) string {
	var b strings.Builder
	b.Grow(size)
	rest, more := pattern, true
	for more {
		var token string
		token, rest, more = next(rest)
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		switch token {
		case "*":
			b.WriteString(tokens[0])
			tokens = tokens[1:]
		case ">":
			writeJoined(&b, tokens)
		default:
			b.WriteString(token)
		}
	}
	return b.String()
}

// writeJoined writes tokens with dots between them.
func writeJoined(b *strings.Builder, tokens []string) {
	for i, token := range tokens {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(token)
	}
}

// checkCount compares the number of tokens with the wildcards of a good pattern.
func checkCount(pattern string, got int) *Problem {
	stars := strings.Count(pattern, "*")
	if strings.HasSuffix(pattern, ">") {
		if got > stars {
			return nil
		}
		return &Problem{
			fmt.Sprintf("was filled with %s, it needs %d or more", tokenCount(got), stars+1),
			"give one token for each \"*\" and at least one for \">\"",
		}
	}
	if got == stars {
		return nil
	}
	return &Problem{
		fmt.Sprintf("was filled with %s, it needs %d", tokenCount(got), stars),
		"give one token for each \"*\"",
	}
}

func tokenCount(n int) string {
	if n == 1 {
		return "1 token"
	}
	return strconv.Itoa(n) + " tokens"
}

// checkToken refuses a string that is not exactly one token without wildcards.
func checkToken(token string) *Problem {
	if strings.IndexByte(token, '.') < 0 && isPlain(token) {
		return nil
	}
	const encode = "encode such values, for example with base64.RawURLEncoding"
	switch {
	case token == "":
		return &Problem{"is empty", "a token needs at least one character"}
	case strings.Contains(token, "."):
		return &Problem{"contains a dot", "a token is one level: give each level as a token of its own, or " + encode}
	case strings.ContainsAny(token, "*>"):
		return &Problem{"contains a wildcard character", encode}
	case len(token) > MaxLength:
		return &Problem{fmt.Sprintf("is %d bytes long, the limit is %d", len(token), MaxLength), "put data into the message, not into its subject"}
	}
	if p := checkRunes(token); p != nil {
		return &Problem{p.Reason, encode}
	}
	return nil
}

// markByte starts a marked string and separates its parts: markByte, the quoted pattern,
// markByte, the reason, markByte, the hint. A marked string is not a valid subject, because it
// starts with a control character. No server accepts it, because that character is NUL.
const markByte = '\x00'

// noHint replaces an empty hint, because no part of a marked string may be empty.
const noHint = "-"

// isMarked reports whether s is a marked string.
func isMarked(s string) bool {
	return len(s) > 0 && s[0] == markByte
}

// mark returns a marked string.
func mark(pattern, reason, hint string) string {
	if hint == "" {
		hint = noHint
	}
	const sep = string(markByte)
	return sep + strconv.Quote(clip(pattern)) + sep + reason + sep + hint
}

// unmark returns the problem in a marked string. If the parts are not complete, another program
// made the string, and its text must not reach a log.
func unmark(s string) *Problem {
	fields, ok := markFields(s)
	if !ok {
		return &Problem{"contains the control character U+0000 at byte 0", "use visible characters only, without blanks"}
	}
	if fields[2] == noHint {
		fields[2] = ""
	}
	return &Problem{Reason: fields[1], Hint: fields[2]}
}

// markFields returns the parts of a marked string.
func markFields(s string) ([3]string, bool) {
	parts := strings.Split(s[1:], string(markByte))
	if len(parts) != 3 {
		return [3]string{}, false
	}
	for _, part := range parts {
		if part == "" || strings.ContainsFunc(part, unprintable) {
			return [3]string{}, false
		}
	}
	return [3]string(parts), true
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// Original returns s for an error text. For a marked string that is the first 64 bytes of the
// pattern.
func Original(s string) string {
	if !isMarked(s) {
		return s
	}
	fields, ok := markFields(s)
	if !ok {
		return s
	}
	pattern, err := strconv.Unquote(fields[0])
	if err != nil {
		return s
	}
	return pattern
}
