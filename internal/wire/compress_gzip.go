package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
)

// gzipLevel is klauspost's fast end: gzip is here for clients that have nothing else.
const gzipLevel = 3

// gzipWriter appends to out.
type gzipWriter struct {
	gz  *gzip.Writer
	out []byte
}

func (w *gzipWriter) Write(p []byte) (int, error) {
	w.out = append(w.out, p...)
	return len(p), nil
}

func (c *Coder) encodeGzip(dst, src []byte) ([]byte, error) {
	w, err := c.gzipWriter()
	if err != nil {
		return nil, err
	}
	w.out = dst
	defer func() {
		w.out = nil
		c.gzipWriters.Put(w)
	}()
	w.gz.Reset(w)
	if _, err := w.gz.Write(src); err != nil {
		return nil, err
	}
	if err := w.gz.Close(); err != nil {
		return nil, err
	}
	return w.out, nil
}

func (c *Coder) gzipWriter() (*gzipWriter, error) {
	if w, ok := c.gzipWriters.Get().(*gzipWriter); ok {
		return w, nil
	}
	gz, err := gzip.NewWriterLevel(nil, gzipLevel)
	return &gzipWriter{gz: gz}, err
}

// gzipReader reads from src.
type gzipReader struct {
	gz  gzip.Reader
	src bytes.Reader
}

func (c *Coder) decodeGzip(src []byte) ([]byte, error) {
	r, ok := c.gzipReaders.Get().(*gzipReader)
	if !ok {
		r = new(gzipReader)
	}
	r.src.Reset(src)
	defer func() {
		r.src.Reset(nil) // do not keep src alive
		c.gzipReaders.Put(r)
	}()
	if err := r.gz.Reset(&r.src); err != nil {
		return nil, &CorruptError{EncodingGzip, unexpectedEOF(err)}
	}
	return c.readGzip(&r.gz, make([]byte, 0, c.gzipSizeHint(src)))
}

// readGzip appends all of r to dst, and stops one byte above the limit.
func (c *Coder) readGzip(r io.Reader, dst []byte) ([]byte, error) {
	for {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := r.Read(dst[len(dst):min(cap(dst), c.maxDecoded+1)])
		dst = dst[:len(dst)+n]
		switch {
		case len(dst) > c.maxDecoded:
			return nil, c.bombError(EncodingGzip)
		case err == io.EOF:
			return dst, nil
		case err != nil:
			return nil, &CorruptError{EncodingGzip, err}
		}
	}
}

// gzipSizeHint is the trailer's size and a byte for the end of file, if deflate could
// make that much of src at all.
func (c *Coder) gzipSizeHint(src []byte) int {
	const trailer, best = 4, 1032 // deflate's best ratio
	if len(src) < trailer {
		return 0
	}
	size := int64(binary.LittleEndian.Uint32(src[len(src)-trailer:]))
	return int(min(size, int64(len(src))*best, int64(c.maxDecoded))) + 1
}

// noEOF tells a truncated header from an end.
func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
