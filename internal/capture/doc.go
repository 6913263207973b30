// Package capture knows which subjects the streams store that a bus has met.
//
// A core message on a subject that a stream stores is stored too, and nobody tells the
// publisher. A request on such a subject gets the stream's acknowledgement as its reply. So
// a bus looks every subject up before it publishes or sends a request.
//
// The Index promises that Find takes no lock and asks no server. It may be wrong: other
// programs change streams at any time. Confirm asks the server first, so a subject is
// refused only for a stream that stores it now. A stream that the bus has never met is
// unknown to both. IsAnswerOf finds such a stream by its answer to a request.
//
// States: a stream is unknown or known. Set makes it known, Remove and a Confirm that finds
// it gone make it unknown. The package has no goroutines. All is kept in memory: after a
// crash the index is empty until streams are declared or looked up again.
package capture
