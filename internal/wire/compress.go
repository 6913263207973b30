package wire

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"sync"
)

// The encodings that a Coder knows, as in Content-Encoding.
const (
	// EncodingZstd is RFC 8878, with the content's size and a checksum.
	EncodingZstd = "zstd"

	// EncodingS2 is one S2 block, not the S2 stream: a block is smaller and says how long
	// it becomes before anything is allocated. It has no checksum, which messages, whole or
	// absent as they are, can do without. Plain Snappy blocks, which most languages can
	// write, are valid S2 blocks; what we write needs an S2 reader.
	EncodingS2 = "s2"

	// EncodingGzip is RFC 1952: the one that every client has.
	EncodingGzip = "gzip"

	encodingIdentity = "identity"
)

// Coder compresses and decompresses, one per bus, safe for concurrent use.
//
// It owns its pools and starts no goroutine. Pooled zstd coders hold channels, and a
// channel made in a synctest bubble must not be used outside: so there are no pools of
// the package, and a Coder stays in the bubble where it was first used, as its bus does.
type Coder struct {
	maxDecoded int

	scratch     sync.Pool // *[]byte, compressed bytes before they are copied out
	zstdWriters sync.Pool // *zstd.Encoder
	zstdReaders sync.Pool // *zstd.Decoder
	gzipWriters sync.Pool // *gzipWriter
	gzipReaders sync.Pool // *gzipReader
}

// maxDecodedMost keeps a byte more countable where an int has 32 bits.
const maxLimit = math.MaxInt32 - 1

// NewCoder returns a Coder that decompresses to at most maxDecoded bytes, and never to
// 2 GiB. Below one, only what decompresses to nothing passes.
func NewCoder(maxDecoded int) *Coder {
	return &Coder{maxDecoded: min(max(maxDecoded, 0), maxLimit)}
}

// Compress returns src in the encoding, in memory of its own. ok is false where that would
// not be smaller, and for no encoding ("" or "identity"): send src as it is, then. An
// encoding that is none of the three is an *UnknownEncodingError.
func (c *Coder) Compress(encoding string, src []byte) (dst []byte, ok bool, err error) {
	encode, err := encoder(encoding)
	if err != nil || encode == nil || len(src) == 0 {
		return nil, false, err
	}
	buf := c.buffer()
	defer c.scratch.Put(buf)
	out, err := encode(c, (*buf)[:0], src)
	if err != nil {
		return nil, false, fmt.Errorf("cannot compress with %s: %w", encoding, err)
	}
	*buf = out
	if len(out) >= len(src) {
		return nil, false, nil
	}
	return bytes.Clone(out), true, nil
}

// Decompress returns what src, in the encoding, stands for, in memory of its own; for no
// encoding ("" or "identity") src itself, whatever its length. The errors: *BombError for
// more than the limit, *CorruptError for malformed or truncated data, to which empty data
// belongs, *UnknownEncodingError.
//
// Memory is bounded by the limit, not by what data claims: at most about twice the limit
// is held at a time, and less than 256 KiB more. A few bytes may claim as much as the limit
// and have it allocated.
func (c *Coder) Decompress(encoding string, src []byte) ([]byte, error) {
	decode, err := decoder(encoding)
	if err != nil {
		return nil, err
	}
	if decode == nil {
		return src, nil
	}
	return decode(c, src)
}

func (c *Coder) buffer() *[]byte {
	if buf, ok := c.scratch.Get().(*[]byte); ok {
		return buf
	}
	return new([]byte)
}

// bomb returns the error for data that exceeds the limit.
func (c *Coder) bombError(encoding string) error {
	return &BombError{Encoding: encoding, Limit: c.maxDecoded}
}

type (
	encodeFunc func(c *Coder, dst, src []byte) ([]byte, error)
	decodeFunc func(c *Coder, src []byte) ([]byte, error)
)

// encoder returns nil for no encoding.
func encoder(encoding string) (encodeFunc, error) {
	switch canonical(encoding) {
	case EncodingZstd:
		return (*Coder).encodeZstd, nil
	case EncodingS2:
		return (*Coder).encodeS2, nil
	case EncodingGzip:
		return (*Coder).encodeGzip, nil
	case "", encodingIdentity:
		return nil, nil
	}
	return nil, &UnknownEncodingError{Encoding: encoding}
}

// decoder returns nil for no encoding.
func decoder(encoding string) (decodeFunc, error) {
	switch canonical(encoding) {
	case EncodingZstd:
		return (*Coder).decodeZstd, nil
	case EncodingS2:
		return (*Coder).decodeS2, nil
	case EncodingGzip:
		return (*Coder).decodeGzip, nil
	case "", encodingIdentity:
		return nil, nil
	}
	return nil, &UnknownEncodingError{Encoding: encoding}
}

// canonical forgives case and blanks, as HTTP does for its content codings.
func canonical(encoding string) string {
	return strings.ToLower(strings.Trim(encoding, " \t"))
}

// BombError is returned for data that would decompress to more than the limit. Decoding
// it again fails again.
type BombError struct {
	Encoding string
	Limit    int // in bytes
}

// Error names the limit.
func (e *BombError) Error() string {
	return fmt.Sprintf("%s data decompresses to more than %d bytes; send less at once or raise the receiver's limit", e.Encoding, e.Limit)
}

// CorruptError is returned for data that is malformed or truncated. Decoding it again
// fails again.
type CorruptError struct {
	Encoding string
	Err      error // what the format's library said; never nil
}

// Error says what the library said.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("malformed %s data: %v; check that the sender compresses what it says", e.Encoding, e.Err)
}

// Unwrap returns the library's error.
func (e *CorruptError) Unwrap() error { return e.Err }

// UnknownEncodingError is returned for a content encoding that this member does not have.
// Another member, or a newer one, may have it.
type UnknownEncodingError struct {
	Encoding string // as it was received
}

// Error names the encodings that would do.
func (e *UnknownEncodingError) Error() string {
	return fmt.Sprintf("unknown content encoding %.64q; use zstd, s2, gzip or none", e.Encoding)
}
