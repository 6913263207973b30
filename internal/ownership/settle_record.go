package ownership

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// Kind is the second token of the subjects that are stored, and the end of the
// stream's name.
const Kind = "keys"

const (
	storedRoot = "$OMNIBUS." + Kind + "."
	crewRoot   = "$OMNIBUS.crew."
)

// StreamOf returns the name of the stream of the claims on durables of stream.
func StreamOf(stream string) string { return stream + "-" + Kind }

// SubjectsOf returns the pattern of all that this stream stores.
func SubjectsOf(stream string) string { return storedRoot + stream + ".>" }

// Names are what the subjects about one durable are made of.
type Names struct{ Stream, Durable string }

func (n Names) claim() string            { return storedRoot + n.Stream + "." + n.Durable + ".claim" }
func (n Names) settled() string          { return storedRoot + n.Stream + "." + n.Durable + ".settled" }
func (n Names) crew() string             { return crewRoot + n.Stream + "." + n.Durable }
func (n Names) lead(epoch uint64) string { return n.crew() + ".lead." + strconv.FormatUint(epoch, 10) }
func (n Names) run(member string) string { return n.crew() + ".run." + member }
func (n Names) news() string             { return n.crew() + ".news" }

// Holder is the body of a claim: who has it, or who freed it.
type Holder struct {
	Member string        `json:"member"`
	Free   bool          `json:"free,omitempty"`
	TTL    time.Duration `json:"ttl,omitempty"` // by which it lives, nanoseconds: others may go by a shorter one
}

// ID identifies a message among those of all sources of a durable, also when a
// stream is made anew and repeats its sequences.
type ID struct {
	Source   int    `json:"source,omitempty"`
	Position uint64 `json:"position"`
	Time     int64  `json:"time"` // when the original was stored, nanoseconds
}

// IDOf returns the ID of a message.
func IDOf(d *wire.Delivery) ID {
	return ID{Source: d.Stored.Source, Position: d.Stored.Position, Time: d.Stored.Time.UnixNano()}
}

// Verdict says why a message becomes a dead letter.
type Verdict struct {
	Cause    string `json:"cause"`
	Error    string `json:"error"`
	Attempts int    `json:"attempts"` // handler calls that failed
}

// Entry is one message that is settled: done, or dead where it has a verdict.
type Entry struct {
	ID
	Dead *Verdict `json:"dead,omitempty"`
}

// Record is the body of a settle record.
type Record struct {
	Entries []Entry `json:"entries"`
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic("ownership: " + err.Error()) // none of our types can fail
	}
	return data
}
