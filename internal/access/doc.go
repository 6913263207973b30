// Package access gives the other public packages of the library what they need of the root
// package and users do not.
//
// The root package sets the variables in its init functions. Whoever uses them imports the
// root package as well, so they are set by then. Nothing changes them afterwards. The
// package has no other state and no goroutines. A crash leaves nothing behind.
package access
