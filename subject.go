package bus

import (
	"fmt"

	"github.com/omnibus-go/bus/internal/subject"
)

// Subject is a NATS subject whose messages have the type T. It consists of tokens that are
// joined by dots, such as "shop.orders.eu.placed.v1". A pattern may have "*" for any one
// token and ">" at the end for one or more tokens. Subject is a string type, so a subject
// can be a constant, and a string literal is accepted where another argument says what T is, as a
// handler does. Replay and ItemOf need it said: Replay(ctx, st, Subject[Order]("shop.>")).
type Subject[T any] string

// At replaces the wildcards of s: each "*" by one token, in order, and ">" at the end by
// all remaining tokens. At has no error result. If a token is empty or contains a dot, a
// wildcard, white space or a control character, or if the number of tokens is wrong, every
// use of the returned subject fails with a *SubjectError that says so. So a token can never
// add a level or a wildcard.
func (s Subject[T]) At(tokens ...string) Subject[T] {
	return Subject[T](subject.Fill(string(s), tokens...))
}

// Match reports whether the pattern s matches the literal subject. It returns the tokens
// at the places of the wildcards, in order.
func (s Subject[T]) Match(literal string) (tokens []string, ok bool) {
	return subject.Match(string(s), literal)
}

// String returns the subject as text.
func (s Subject[T]) String() string { return string(s) }

// Validate returns a *SubjectError if s is malformed. Patterns are valid.
func (s Subject[T]) Validate() error { return checkPattern(string(s)) }

// Endpoint is the subject of requests with the type Req, whose replies have the type Resp.
// Like a Subject it can be a constant or a literal. A responder may use a pattern, a request
// may not.
type Endpoint[Req, Resp any] string

// At replaces the wildcards of e, as Subject.At does.
func (e Endpoint[Req, Resp]) At(tokens ...string) Endpoint[Req, Resp] {
	return Endpoint[Req, Resp](subject.Fill(string(e), tokens...))
}

// String returns the subject as text.
func (e Endpoint[Req, Resp]) String() string { return string(e) }

// Validate returns a *SubjectError if e is malformed. Patterns are valid.
func (e Endpoint[Req, Resp]) Validate() error { return checkPattern(string(e)) }

// Subjects returns the texts of s, for StreamConfig.Subjects. The text of a nil element is
// "", which Bus.Stream refuses.
func Subjects(s ...fmt.Stringer) []string {
	texts := make([]string, len(s))
	for i := range s {
		if s[i] != nil {
			texts[i] = s[i].String()
		}
	}
	return texts
}

// Name has the five parts of a subject by the convention
// {domain}.{service}.{entity}.{action}.{version}, such as "shop.orders.eu.placed.v1". The
// first four parts are lower-case tokens (a-z, 0-9, - and _) or "*". The version is "v1",
// "v2" and so on.
type Name struct{ Domain, Service, Entity, Action, Version string }

// Subject returns the subject that n names, to be converted to a Subject[T] or an
// Endpoint[Req, Resp]. If a part breaks the convention, the error is a *SubjectError that
// says which one.
func (n Name) Subject() (string, error) {
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

// addPattern adds to what is wrong with a call what is wrong with its subject pattern.
func addPattern(call optionTarget, pattern string) {
	if err := checkPattern(pattern); err != nil {
		call.addError(err)
	}
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
