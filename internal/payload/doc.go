// Package payload turns values into payloads and payloads into values: it chooses the
// codec, validates, compresses, and writes and reads the content headers.
//
// A Format has the rules of one bus. It validates a value before it encodes it and after
// it decoded it. It names the codec in the header of a message only where a reader would
// assume another one. It compresses where that makes the payload smaller. On receipt it
// decompresses no more than MaxDecoded bytes.
//
// What fails is a *CodecError or an *InvalidError. A CodecError that wraps ErrUnknown is
// about a content type or an encoding that a newer version of the program may know.
//
// A Format has no states and no goroutines. It keeps nothing on disk, so a crash loses
// nothing. It is safe for concurrent use.
package payload
