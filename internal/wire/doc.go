// Package wire defines what goes over the wire: encoded messages, their headers,
// compression, and the choice of a codec by content type.
//
// Functions that read bytes of other programs limit their memory, return typed errors, and
// are fuzzed. The header names, the subjects and the encodings are fixed: the golden files of
// the root package pin them.
//
// States: none, except the pools of a [Coder]. Goroutines: none. After a crash nothing is
// left.
package wire
