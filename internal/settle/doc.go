// Package settle decides what becomes of a message after a handler call, and why a
// message became a dead letter.
//
// It promises that the same outcome leads to the same action everywhere. It has no state
// and no goroutine, looks at no clock and does nothing itself; package intake acts. So a
// crash leaves nothing of it behind.
package settle
