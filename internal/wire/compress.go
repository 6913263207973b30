package wire

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"sync"

	"github.com/omnibus-go/bus/codec"
)

// The encodings of a Coder, as in the header Content-Encoding.
const (
	// EncodingZstd is RFC 8878, with the size of the content and a checksum.
	EncodingZstd = codec.Zstd

	// EncodingS2 is one S2 block, not an S2 stream. A block is smaller, and it names its
	// decompressed size before anything is allocated. It has no checksum; messages need
	// none, because they arrive complete or not at all. A Snappy block is a valid S2 block,
	// and most languages can write one. The blocks written here need an S2 reader.
	EncodingS2 = codec.S2

	// EncodingGzip is RFC 1952. Every client has it.
	EncodingGzip = codec.Gzip

	encodingIdentity = "identity"
)

// Coder compresses and decompresses. Each bus has one. Safe for concurrent use.
//
// It owns its pools and starts no goroutine. A pooled zstd coder has channels, and a channel
// that was made in a synctest bubble must not be used outside of it. So the pools do not
// belong to the package, and a Coder stays in the bubble of its bus.
type Coder struct {
	maxDecoded int

	scratch     sync.Pool // *[]byte: compressed bytes before they are copied
	zstdWriters sync.Pool // *zstd.Encoder
	zstdReaders sync.Pool // *zstd.Decoder
	gzipWriters sync.Pool // *gzipWriter
	gzipReaders sync.Pool // *gzipReader
}

// maxLimit is the largest limit, so that limit+1 fits into an int of 32 bits.
const maxLimit = math.MaxInt32 - 1

// NewCoder returns a Coder that decompresses to at most maxDecoded bytes, and to less than
// 2 GiB. If maxDecoded is below one, only data that decompresses to nothing is accepted.
func NewCoder(maxDecoded int) *Coder {
	return &Coder{maxDecoded: min(max(maxDecoded, 0), maxLimit)}
}

// Compress returns src in the encoding, in new memory. ok is false if the result would not be
// smaller than src, and for no encoding ("" or "identity"); then send src itself. For another
// encoding the error is an *UnknownEncodingError.
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

// Decompress returns the decompressed src, in new memory. For no encoding ("" or "identity") it
// returns src itself, of any length. The error is a *BombError for more than the limit, a
// *CorruptError for malformed, truncated or empty data, and an *UnknownEncodingError for an
// unknown encoding.
//
// The limit bounds the memory, not the size that the data claims: at most about twice the
// limit and 256 KiB are in use at a time. A few bytes may claim the size of the limit, and
// then that is allocated.
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

// buffer returns a buffer of the pool.
func (c *Coder) buffer() *[]byte {
	if buf, ok := c.scratch.Get().(*[]byte); ok {
		return buf
	}
	return new([]byte)
}

// bombError returns the error for data that exceeds the limit.
func (c *Coder) bombError(encoding string) error {
	return &BombError{Encoding: encoding, Limit: c.maxDecoded}
}

type (
	encodeFunc func(c *Coder, dst, src []byte) ([]byte, error)
	decodeFunc func(c *Coder, src []byte) ([]byte, error)
)

// encoder returns the function for an encoding, nil for no encoding.
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

// decoder returns the function for an encoding, nil for no encoding.
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

// canonical returns an encoding in lower case without blanks, as HTTP compares content
// codings.
func canonical(encoding string) string {
	return strings.ToLower(strings.Trim(encoding, " \t"))
}

// BombError is the error for data that would decompress to more than the limit. A retry fails
// again.
type BombError struct {
	Encoding string
	Limit    int // in bytes
}

// Error returns a text with the limit.
func (e *BombError) Error() string {
	return fmt.Sprintf("%s data decompresses to more than %d bytes; send less at once or raise the receiver's limit", e.Encoding, e.Limit)
}

// CorruptError is the error for malformed or truncated data. A retry fails again.
type CorruptError struct {
	Encoding string
	Err      error // of the library of the format; never nil
}

// Error returns a text with the error of the library.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("malformed %s data: %v; check that the sender uses the encoding that it names", e.Encoding, e.Err)
}

// Unwrap returns the error of the library.
func (e *CorruptError) Unwrap() error { return e.Err }

// UnknownEncodingError is the error for a content encoding that this version does not have.
// Another process, with a newer version, may have it.
type UnknownEncodingError struct {
	Encoding string // as received
}

// Error returns a text with the known encodings.
func (e *UnknownEncodingError) Error() string {
	return fmt.Sprintf("unknown content encoding %.64q; use zstd, s2, gzip or none", e.Encoding)
}
