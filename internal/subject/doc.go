// Package subject has the rules of NATS subjects as functions.
//
// A subject is one or more tokens, separated by dots. A pattern may also have the token "*",
// which matches any one token, and at its end the token ">", which matches one or more
// tokens. The rules here are a little stricter than those of the server, which accepts nearly
// every byte. [Check] refuses only subjects that the server refuses too, or that are a
// mistake.
//
// Functions that compare patterns expect patterns that [CheckPattern] accepts. With other
// input they do not panic, but their result has no meaning.
//
// State: the set of patterns that [Fill] has filled, for [Template]. It belongs to the process
// and has at most 1024 patterns. Goroutines: none. After a crash nothing is left.
package subject
