// Package subject holds the rules of NATS subjects as pure functions.
//
// A subject is one or more tokens joined by dots. A pattern may also hold the
// token "*", which stands for any one token, and at its end the token ">",
// which stands for one or more tokens. Our rule is a little stricter than the
// server's, which takes nearly any byte: what [Check] refuses is either
// refused by the server too or surely a mistake.
//
// The functions that compare patterns expect what [CheckPattern] accepts. Other
// input never panics, but its answer means nothing.
package subject
