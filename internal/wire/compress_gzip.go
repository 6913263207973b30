package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
)

// gzipLevel is a fast level of the library. gzip is for clients that have nothing else.
const gzipLevel = 3

// gzipWriter is a pooled writer that appends to out.
type gzipWriter struct {
	gz  *gzip.Writer
	out []byte
}

// Write implements io.Writer.
func (w *gzipWriter) Write(p []byte) (int, error) {
	w.out = append(w.out, p...)
	return len(p), nil
}

// encodeGzip appends src, compressed, to dst.
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

// gzipWriter returns a writer of the pool.
func (c *Coder) gzipWriter() (*gzipWriter, error) {
	if w, ok := c.gzipWriters.Get().(*gzipWriter); ok {
		return w, nil
	}
	gz, err := gzip.NewWriterLevel(nil, gzipLevel)
	return &gzipWriter{gz: gz}, err
}

// gzipReader is a pooled reader of src.
type gzipReader struct {
	gz  gzip.Reader
	src bytes.Reader
}

// decodeGzip decompresses src.
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

// readGzip appends all of r to dst. It stops one byte above the limit.
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

// gzipSizeHint returns how much memory to allocate first: the size in the trailer and one byte
// to find the end. It returns less if deflate could not compress that much into src.
func (c *Coder) gzipSizeHint(src []byte) int {
	const trailer, best = 4, 1032 // the best ratio of deflate
	if len(src) < trailer {
		return 0
	}
	size := int64(binary.LittleEndian.Uint32(src[len(src)-trailer:]))
	return int(min(size, int64(len(src))*best, int64(c.maxDecoded))) + 1
}

// unexpectedEOF returns io.ErrUnexpectedEOF for io.EOF, because a truncated header is not a
// regular end.
func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
