package subject

import "strings"

const (
	anyToken = "*"
	anyTail  = ">"
)

// Matches reports whether pattern matches the literal subject. It does not
// allocate.
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

// Match is [Matches] that also returns the tokens that stood for the wildcards,
// in order: one for each "*", then each token that ">" stood for. It returns
// nil for a literal pattern. [Fill] is its inverse.
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

// countCaptures returns the number of tokens Match returns for a match.
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

func appendTokens(tokens []string, s string) []string {
	for more := true; more; {
		var token string
		token, s, more = next(s)
		tokens = append(tokens, token)
	}
	return tokens
}

// Overlap reports whether some literal subject matches both patterns.
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

// Covers reports whether pattern matches all that the pattern narrower matches.
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

// MoreSpecific reports whether a goes before b where several patterns match a
// subject and one is to be chosen: at the first token that differs a literal
// beats "*", and "*" beats ">".
//
// Patterns that cannot match the same subject are ordered by their text. That
// makes the order total: sort by it and take the first that matches.
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

func tokenBefore(a, b string) bool {
	if rankA, rankB := rank(a), rank(b); rankA != rankB {
		return rankA < rankB
	}
	return a < b
}

func rank(token string) int {
	switch token {
	case anyToken:
		return 1
	case anyTail:
		return 2
	}
	return 0
}
