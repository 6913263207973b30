// Package jserr has the error numbers of JetStream, and the error that the parts of a bus
// return when an operation on a stream or a consumer fails.
//
// The root package makes a *bus.StreamError of an *Error, at one place (translate). The
// package has no state and no goroutines. A crash leaves nothing behind.
package jserr
