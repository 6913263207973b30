package ownership

import (
	"encoding/json"
	"slices"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// messageID identifies a message among those of all sources of a durable. The time keeps
// it unique when a stream is made anew and repeats its sequences.
type messageID struct {
	Source   int    `json:"source,omitempty"`
	Position uint64 `json:"position"`
	Time     int64  `json:"time"` // when the original was stored, nanoseconds
}

func idOf(d *wire.Delivery) messageID {
	return messageID{Source: d.Stored.Source, Position: d.Stored.SourceSequence, Time: d.Stored.Time.UnixNano()}
}

// settledMessage is one settled message. Dead is nil unless it is to become a dead letter.
type settledMessage struct {
	messageID
	Epoch uint64             `json:"epoch,omitempty"` // of the owner that settled it
	Dead  *settle.DeadReason `json:"dead,omitempty"`
}

// settleRecord is the body of the settle record: all messages that are settled and
// whose acknowledgement the server has not confirmed.
type settleRecord struct {
	Entries []settledMessage `json:"entries"`

	sequence uint64 // of the stored message; 0 if there is none
}

// settledBy returns the epoch of the owner that settled a message. found is whether r has it.
func (r *settleRecord) settledBy(id messageID) (epoch uint64, found bool) {
	i := slices.IndexFunc(r.Entries, func(m settledMessage) bool { return m.messageID == id })
	if i < 0 {
		return 0, false
	}
	return r.Entries[i].Epoch, true
}

// encode returns v as JSON. It panics if v has no JSON form, which none of our types lacks.
func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic("ownership: " + err.Error())
	}
	return data
}

// The settle record is one message, so its entries must fit into the server's limit.
// A plain entry leaves it when its acknowledgement is confirmed, which is soon. An entry
// with a dead-letter reason leaves it when the dead letter is written. That may take
// forever: the stream of dead letters may be full. So dead-letter reasons get at most
// half of the record.

// maxEnvelope is the maximum size of a record without its entries. The header holds the
// subject of the lease.
const maxEnvelope = 1 << 10

// capacityOf returns how many bytes of entries fit into one record.
func capacityOf(maxPayload int) int { return maxPayload - maxEnvelope }

// maxSize returns the maximum number of bytes of m in a record.
func (m *settledMessage) maxSize() int {
	const numbers = 128
	if m.Dead == nil {
		return numbers
	}
	return numbers + len(encode(m.Dead))
}
