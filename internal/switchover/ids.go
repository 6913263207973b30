package switchover

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server/archive"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/internal/wire"
)

// idTap reads the message IDs in a snapshot that passes by. It never makes the copy fail: IDs
// that it cannot read are forgotten, and a warning says so.
type idTap struct {
	w    *io.PipeWriter // nil if there is nothing to read
	done chan error     // of the goroutine that reads
}

// tapIDs begins to read the IDs of a stream, in a goroutine that end ends.
func (s *run) tapIDs(info *jetstream.StreamInfo) *idTap {
	window := info.Config.Duplicates
	if window <= 0 || info.State.Msgs == 0 || time.Since(info.State.LastTime) >= window {
		return &idTap{}
	}
	into := s.ids.Stream(info.Config.Name, wire.Incarnation(info.Config.Metadata, info.Created), window)
	r, w := io.Pipe()
	t := &idTap{w, make(chan error, 1)}
	go func() {
		err := readIDs(s2.NewReader(r), into)
		_ = r.CloseWithError(errTapEnded) // never nil: what still comes is not wanted
		t.done <- err
	}()
	return t
}

var errTapEnded = errors.New("the message IDs are read")

// write hands a chunk of the snapshot on.
func (t *idTap) write(chunk []byte) {
	if t.w != nil {
		_, _ = t.w.Write(chunk) // end returns why the reader has ended
	}
}

// end waits until all chunks are read, and returns what was wrong with them.
func (t *idTap) end() error {
	if t.w == nil {
		return nil
	}
	_ = t.w.Close()
	return <-t.done
}

// readIDs reads an archive to its end.
func readIDs(r io.Reader, into *dedup.StreamCollector) error {
	entries := archive.NewReader(r)
	header := make([]byte, 0, 1<<10)
	for {
		e, err := entries.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case e.Sequence == 0 || e.HeaderSize == 0 || !into.Wants(e.Timestamp):
			continue
		case e.HeaderSize > maxHeader:
			return fmt.Errorf("message %d has a header of %d bytes", e.Sequence, e.HeaderSize)
		}
		if int64(cap(header)) < e.HeaderSize {
			header = make([]byte, 0, e.HeaderSize)
		}
		if _, err := io.ReadFull(entries, header[:e.HeaderSize]); err != nil {
			return err
		}
		into.Add(header[:e.HeaderSize], e.Sequence, e.Timestamp)
	}
}

// maxHeader is more than the bytes of any header: those of the largest message.
const maxHeader = 64 << 20
