package wire

import (
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// zstdWriteWindow is the window of an encoder, in bytes. Few messages are longer.
const zstdWriteWindow = 1 << 20

// encodeZstd appends src, compressed, to dst.
func (c *Coder) encodeZstd(dst, src []byte) ([]byte, error) {
	w, ok := c.zstdWriters.Get().(*zstd.Encoder)
	if !ok {
		var err error
		w, err = zstd.NewWriter(nil,
			zstd.WithEncoderConcurrency(1), // more would start goroutines
			zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithWindowSize(zstdWriteWindow),
			zstd.WithLowerEncoderMem(true),
		)
		if err != nil {
			return nil, err
		}
	}
	defer c.zstdWriters.Put(w)
	return w.EncodeAll(src, dst), nil
}

// decodeZstd decompresses src. It refuses a frame that names too large a size before memory is
// allocated. For other frames the library stops at its own limit, a little above c.maxDecoded.
func (c *Coder) decodeZstd(src []byte) ([]byte, error) {
	if len(src) < 4 { // the library accepts less than a magic number as empty
		return nil, &CorruptError{EncodingZstd, io.ErrUnexpectedEOF}
	}
	var frame zstd.Header
	if frame.Decode(src) == nil {
		if frame.HasFCS && frame.FrameContentSize > uint64(c.maxDecoded) {
			return nil, c.bombError(EncodingZstd)
		}
		src = c.narrowWindow(src, &frame)
	}
	r, err := c.zstdReader()
	if err != nil {
		return nil, err
	}
	defer c.zstdReaders.Put(r)
	dst, err := r.DecodeAll(src, nil)
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return nil, c.bombError(EncodingZstd)
	case err != nil:
		return nil, &CorruptError{EncodingZstd, err}
	case len(dst) > c.maxDecoded:
		return nil, c.bombError(EncodingZstd)
	}
	return dst, nil
}

// zstdReader returns a decoder of the pool.
func (c *Coder) zstdReader() (*zstd.Decoder, error) {
	if r, ok := c.zstdReaders.Get().(*zstd.Decoder); ok {
		return r, nil
	}
	_, limit := c.zstdWindow()
	return zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(limit),
	)
}

// narrowWindow returns src with a window that the decoder accepts. A streaming encoder writes
// the window of its level, which is megabytes even for a short message, and the library
// refuses windows above its limit. Content within the limit refers back at most by the
// limit, so a window of that size decodes it as well.
func (c *Coder) narrowWindow(src []byte, frame *zstd.Header) []byte {
	const windowAt = 5 // after the magic number and the frame header descriptor
	descriptor, limit := c.zstdWindow()
	if frame.Skippable || frame.SingleSegment || frame.WindowSize <= limit {
		return src
	}
	src = bytes.Clone(src)
	src[windowAt] = descriptor
	return src
}

// zstdWindow returns the smallest window that holds the limit and a block (128 KiB), as a
// Window_Descriptor (RFC 8878, section 3.1.1.1.2) and in bytes.
func (c *Coder) zstdWindow() (descriptor byte, size uint64) {
	const block = 128 << 10
	for d := range 256 {
		base := uint64(1) << (10 + d>>3)
		size = base + base/8*uint64(d&7)
		if size >= uint64(max(c.maxDecoded, block)) {
			return byte(d), size
		}
	}
	return 255, size // not reached: the limit is below 2 GiB
}
