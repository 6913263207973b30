package wire

import (
	"errors"
	"slices"

	"github.com/klauspost/compress/s2"
)

// encodeS2 appends src, compressed, to dst.
func (c *Coder) encodeS2(dst, src []byte) ([]byte, error) {
	maxSize := s2.MaxEncodedLen(len(src))
	if maxSize < 0 {
		return nil, s2.ErrTooLarge
	}
	dst = slices.Grow(dst, maxSize)
	return s2.Encode(dst[:cap(dst)], src), nil
}

// decodeS2 decompresses src. The size in src is checked before memory is allocated.
func (c *Coder) decodeS2(src []byte) ([]byte, error) {
	size, err := s2.DecodedLen(src)
	if size > c.maxDecoded || errors.Is(err, s2.ErrTooLarge) { // ErrTooLarge: if an int has 32 bits
		return nil, c.bombError(EncodingS2)
	}
	if err != nil {
		return nil, &CorruptError{EncodingS2, err}
	}
	dst, err := s2.Decode(nil, src)
	if err != nil {
		return nil, &CorruptError{EncodingS2, err}
	}
	return dst, nil
}
