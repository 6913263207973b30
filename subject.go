package bus

import (
	"fmt"

	"github.com/omnibus-go/bus/internal/subject"
)

// Subject is a NATS subject that carries messages of type T: one or more tokens
// joined by dots, as "shop.orders.eu.placed.v1". As a pattern it may have "*"
// for any one token and a final ">" for the rest. It is a string, so it can be
// a constant, and a literal can stand where one is expected.
type Subject[T any] string

// At fills the wildcards: each "*" in order by one token, a final ">" by the
// remaining ones. Since it cannot return an error, a token that is empty or
// holds a dot, a wildcard, white space or a control character, and a wrong
// number of tokens, give a subject that every use refuses with a *SubjectError
// saying so: a token can never add a level or a wildcard.
func (s Subject[T]) At(tokens ...string) Subject[T] {
	return Subject[T](subject.Fill(string(s), tokens...))
}

// Match reports whether s, as a pattern, matches the literal subject, and
// returns the tokens that its wildcards stand for, in order.
func (s Subject[T]) Match(literal string) (tokens []string, ok bool) {
	return subject.Match(string(s), literal)
}

// String returns the subject as text.
func (s Subject[T]) String() string { return string(s) }

// Validate returns nil or a *SubjectError. Patterns are valid.
func (s Subject[T]) Validate() error { return checkPattern(string(s)) }

// Endpoint is the subject of a request and its reply. As a Subject it can be a
// constant or a literal; a responder may use a pattern, a request not.
type Endpoint[Req, Resp any] string

// At is Subject.At for endpoints.
func (e Endpoint[Req, Resp]) At(tokens ...string) Endpoint[Req, Resp] {
	return Endpoint[Req, Resp](subject.Fill(string(e), tokens...))
}

// String returns the subject as text.
func (e Endpoint[Req, Resp]) String() string { return string(e) }

// Validate returns nil or a *SubjectError. Patterns are valid.
func (e Endpoint[Req, Resp]) Validate() error { return checkPattern(string(e)) }

// Subjects returns the texts of s, for StreamConfig.Subjects. Of nil that is "",
// which Bus.Stream refuses.
func Subjects(s ...fmt.Stringer) []string {
	texts := make([]string, len(s))
	for i := range s {
		if s[i] != nil {
			texts[i] = s[i].String()
		}
	}
	return texts
}

// Name holds the five parts of a subject by the convention
// {domain}.{service}.{entity}.{action}.{version}, as in "shop.orders.eu.placed.v1".
// The first four are lower-case tokens (a-z, 0-9, - and _) or "*"; the version is
// "v1", "v2" and so on.
type Name struct{ Domain, Service, Entity, Action, Version string }

// SubjectOf returns the subject that n names, or a *SubjectError that says which
// part breaks the convention.
func SubjectOf[T any](n Name) (Subject[T], error) {
	s, err := n.build()
	return Subject[T](s), err
}

// EndpointOf is SubjectOf for endpoints.
func EndpointOf[Req, Resp any](n Name) (Endpoint[Req, Resp], error) {
	s, err := n.build()
	return Endpoint[Req, Resp](s), err
}

func (n Name) build() (string, error) {
	s, p := subject.Name(n.Domain, n.Service, n.Entity, n.Action, n.Version)
	if p != nil {
		whole := n.Domain + "." + n.Service + "." + n.Entity + "." + n.Action + "." + n.Version
		return "", subjectError(whole, p)
	}
	return s, nil
}

// checkLiteral returns a *SubjectError unless s can be published to.
func checkLiteral(s string) error {
	if p := subject.Check(s); p != nil {
		return subjectError(s, p)
	}
	return nil
}

// checkPattern returns a *SubjectError unless s can be subscribed to.
func checkPattern(s string) error {
	if p := subject.CheckPattern(s); p != nil {
		return subjectError(s, p)
	}
	return nil
}

func subjectError(s string, p *subject.Problem) error {
	return &SubjectError{Subject: subject.Original(s), Reason: p.Reason, Hint: p.Hint}
}
