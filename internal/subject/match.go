package subject

import "strings"

// The wildcards.
const (
	anyToken = "*"
	anyTail  = ">"
)

// Matches reports whether pattern matches subject. It does not allocate.
func Matches(pattern, subject string) bool {
	for {
		want, restPattern, morePattern := next(pattern)
		if want == anyTail {
			return subject != ""
		}
		got, restSubject, moreSubject := next(subject)
		if got == "" || want != anyToken && want != got {
			return false
		}
		if !morePattern || !moreSubject {
			return morePattern == moreSubject
		}
		pattern, subject = restPattern, restSubject
	}
}

// Match reports whether pattern matches subject, and returns the tokens that the wildcards
// matched, in order: one for each "*", then each token that ">" matched. The tokens are nil
// for a pattern without wildcards. [Fill] is the inverse.
func Match(pattern, subject string) (tokens []string, ok bool) {
	if !Matches(pattern, subject) {
		return nil, false
	}
	if n := countCaptures(pattern, subject); n > 0 {
		tokens = make([]string, 0, n)
	}
	for more := true; more; {
		var want, got string
		want, pattern, more = next(pattern)
		if want == anyTail {
			return appendTokens(tokens, subject), true
		}
		got, subject, _ = next(subject)
		if want == anyToken {
			tokens = append(tokens, got)
		}
	}
	return tokens, true
}

// countCaptures returns the number of tokens that Match returns for a match.
func countCaptures(pattern, subject string) int {
	n := 0
	for more := true; more; {
		var want string
		want, pattern, more = next(pattern)
		if want == anyTail {
			return n + 1 + strings.Count(subject, ".")
		}
		if want == anyToken {
			n++
		}
		_, subject, _ = next(subject)
	}
	return n
}

// appendTokens appends the tokens of s.
func appendTokens(tokens []string, s string) []string {
	for more := true; more; {
		var token string
		token, s, more = next(s)
		tokens = append(tokens, token)
	}
	return tokens
}

// Overlap reports whether a subject exists that both patterns match.
func Overlap(a, b string) bool {
	for {
		tokenA, restA, moreA := next(a)
		tokenB, restB, moreB := next(b)
		if tokenA == anyTail || tokenB == anyTail {
			return true
		}
		if tokenA != anyToken && tokenB != anyToken && tokenA != tokenB {
			return false
		}
		if !moreA || !moreB {
			return moreA == moreB
		}
		a, b = restA, restB
	}
}

// Covers reports whether pattern matches every subject that narrower matches.
func Covers(pattern, narrower string) bool {
	for {
		token, rest, more := next(pattern)
		tokenN, restN, moreN := next(narrower)
		switch {
		case token == anyTail:
			return true
		case tokenN == anyTail, token != anyToken && token != tokenN:
			return false
		case !more || !moreN:
			return more == moreN
		}
		pattern, narrower = rest, restN
	}
}

// MoreSpecific reports whether pattern a has priority over pattern b when both match a subject.
// The first different token decides: a token without a wildcard has priority over "*", and
// "*" over ">".
//
// Patterns that match no common subject are ordered by their text. So the order is total: sort
// patterns by it and take the first one that matches.
func MoreSpecific(a, b string) bool {
	for {
		tokenA, restA, moreA := next(a)
		tokenB, restB, moreB := next(b)
		if tokenA != tokenB {
			return tokenBefore(tokenA, tokenB)
		}
		if !moreA || !moreB {
			return moreB && !moreA
		}
		a, b = restA, restB
	}
}

// tokenBefore reports whether token a has priority over token b.
func tokenBefore(a, b string) bool {
	if rankA, rankB := rank(a), rank(b); rankA != rankB {
		return rankA < rankB
	}
	return a < b
}

// rank returns the priority of a token; 0 is the highest.
func rank(token string) int {
	switch token {
	case anyToken:
		return 1
	case anyTail:
		return 2
	}
	return 0
}
