package switchover

import (
	"fmt"
	"strings"
	"time"

	"github.com/omnibus-go/bus/internal/plural"
)

// Phase is a part of a switch.
type Phase string

// The phases, in their order. Until Commit the bus can go back. From then on it cannot.
const (
	Preflight Phase = "preflight" // look for obstacles
	Precopy   Phase = "precopy"   // while publishers go on: large streams are copied, and a cluster elects leaders for the others; if there is nothing of that, there is no such phase
	Hold      Phase = "hold"      // publishers and new requests wait; consumers are held
	Fence     Phase = "fence"     // on the way home: the old servers store nothing more in the streams
	Cut       Phase = "cut"       // the connection to the old server ends, and that has processed everything
	Copy      Phase = "copy"      // snapshot and restore of each stream
	Verify    Phase = "verify"    // compare streams and consumers
	Commit    Phase = "commit"    // record that the streams are at the target
	Connect   Phase = "connect"   // the connection comes back at the target
	Release   Phase = "release"   // publishers go on, consumers go on
	Settle    Phase = "settle"    // the replicas of the target get the data
)

// Progress says how far a switch is.
type Progress struct {
	Phase    Phase
	Elapsed  time.Duration // since SwitchTo was called
	Streams  int           // that have been copied
	Messages uint64        // of those, and those that were sent of streams that are copied while publishers go on
	Bytes    int64         // sent to the target so far; snapshots are compressed
	Rate     int64         // bytes a second: as many as were sent in the last second, so 0 when none were

	TotalStreams  int
	TotalMessages uint64 // as the last look found them; never less than Messages
}

// PhaseTime is how long a phase took.
type PhaseTime struct {
	Phase Phase
	Time  time.Duration
}

// Report says what a switch did, or would do.
type Report struct {
	DryRun   bool
	Failed   bool          // SwitchTo returned an error, which says why and where the streams are
	Target   string        // the URL, without credentials
	Replicas int           // of each stream at the target; 0 if the switch failed before it knew them
	Streams  []string      // sorted, with the side streams
	Live     []string      // those of them that were copied while publishers went on, sorted; the others are copied while publishers wait
	Messages uint64        // in all streams
	Bytes    int64         // sent to the target; snapshots are compressed, so there are fewer than in the streams; 0 for a dry run
	Waited   time.Duration // how long publishers waited; 0 for a dry run
	Phases   []PhaseTime   // that have ended
	Warnings []string      // what did not make the switch fail, and should be known
}

// String returns a few lines of text.
func (r Report) String() string {
	var b strings.Builder
	b.WriteString(r.outcome())
	if r.Target != "" {
		b.WriteString(" to " + r.Target)
	}
	if r.Failed && len(r.Streams) == 0 { // it failed before it had read them
		return b.String() + r.warnings()
	}
	b.WriteString(": " + plural.Of(len(r.Streams), "stream", "streams"))
	if n := len(r.Live); n > 0 {
		fmt.Fprintf(&b, " (%d while publishers go on)", n)
	}
	b.WriteString(", " + plural.Of(r.Messages, "message", "messages"))
	if r.Replicas > 0 {
		b.WriteString(", " + plural.Of(r.Replicas, "replica", "replicas"))
	}
	if !r.DryRun {
		fmt.Fprintf(&b, "; %s sent, publishers waited %v", plural.Of(r.Bytes, "byte", "bytes"), r.Waited.Round(time.Millisecond))
	}
	return b.String() + r.warnings()
}

// warnings returns the warnings, each on a line of its own.
func (r Report) warnings() string {
	var b strings.Builder
	for _, w := range r.Warnings {
		b.WriteString("\nwarning: " + w)
	}
	return b.String()
}

// outcome says what became of the switch.
func (r Report) outcome() string {
	switch {
	case r.Failed && r.DryRun:
		return "cannot switch"
	case r.Failed:
		return "failed to switch"
	case r.DryRun:
		return "can switch"
	}
	return "switched"
}
