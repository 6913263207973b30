package dedup

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// fileHead is the first line of the file, in JSON. The records of all streams follow, in the
// order of Streams, and then the SHA-256 of everything before.
type fileHead struct {
	Format  int          `json:"format"`
	Move    string       `json:"move"` // the ID of the move that made the file
	Streams []fileStream `json:"streams"`
}

type fileStream struct {
	Name        string        `json:"name"`
	Incarnation string        `json:"incarnation"`
	Window      time.Duration `json:"window"`
	Count       int           `json:"count"`
}

const (
	fileFormat = 1
	recordSize = len(sum{}) + 8 + 8
	// MaxFile is the size of the largest file, in bytes.
	MaxFile = Max*int64(recordSize) + 16<<20
)

// Encode returns the content of a file with the IDs of a move.
func (s *IDs) Encode(move string) []byte {
	head := fileHead{Format: fileFormat, Move: move}
	var records []byte
	for name, st := range s.streams {
		head.Streams = append(head.Streams, fileStream{name, st.incarnation, st.window, len(st.ids)})
		for key, found := range st.ids {
			records = append(records, key[:]...)
			records = binary.BigEndian.AppendUint64(records, found.sequence)
			records = binary.BigEndian.AppendUint64(records, uint64(found.at))
		}
	}
	text, err := json.Marshal(head)
	if err != nil {
		panic(err) // strings and numbers
	}
	data := append(append(text, '\n'), records...)
	check := sha256.Sum256(data)
	return append(data, check[:]...)
}

// ErrOtherMove is the error of Decode for the file of another move.
var ErrOtherMove = errors.New("the message IDs are those of another switch")

var errDamaged = errors.New("the file of message IDs is damaged")

// Decode reads the content of a file that Encode made for a move.
func Decode(data []byte, move string) (*IDs, error) {
	if len(data) < sha256.Size {
		return nil, errDamaged
	}
	body, check := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if sha256.Sum256(body) != [sha256.Size]byte(check) {
		return nil, errDamaged
	}
	text, records, _ := bytes.Cut(body, []byte("\n"))
	var head fileHead
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	switch {
	case head.Format != fileFormat:
		return nil, fmt.Errorf("the file of message IDs has format %d, and not %d", head.Format, fileFormat)
	case head.Move != move:
		return nil, ErrOtherMove
	}
	streams := make(map[string]*stream)
	for _, h := range head.Streams {
		if h.Count < 0 || h.Count > len(records)/recordSize {
			return nil, errDamaged
		}
		size := h.Count * recordSize
		streams[h.Name] = &stream{h.Incarnation, h.Window, decodeRecords(records[:size])}
		records = records[size:]
	}
	return newIDs(streams), nil
}

func decodeRecords(data []byte) map[sum]seen {
	ids := make(map[sum]seen, len(data)/recordSize)
	for ; len(data) > 0; data = data[recordSize:] {
		n := len(sum{})
		ids[sum(data[:n])] = seen{binary.BigEndian.Uint64(data[n:]), int64(binary.BigEndian.Uint64(data[n+8:]))}
	}
	return ids
}
