package switchover

import (
	"fmt"
	"strings"

	"github.com/omnibus-go/bus/internal/plural"
)

// Obstacle is one reason why a bus cannot switch.
type Obstacle struct {
	Stream string // the stream that it is about; empty for the bus or the target
	Reason string // what is in the way
	Remedy string // what to do about it
}

func (o Obstacle) String() string {
	text := o.Reason + ": " + o.Remedy
	if o.Stream != "" {
		text = fmt.Sprintf("stream %q: %s", o.Stream, text)
	}
	return text
}

// ObstacleError reports everything that is in the way of a switch. Nothing was changed.
type ObstacleError struct {
	Target    string // the URL, without credentials
	Obstacles []Obstacle
}

// Error names all obstacles.
func (e *ObstacleError) Error() string {
	texts := make([]string, len(e.Obstacles))
	for i, o := range e.Obstacles {
		texts[i] = o.String()
	}
	return fmt.Sprintf("bus: cannot switch to %s, and nothing was changed; %d in the way: %s", e.Target, len(texts), strings.Join(texts, "; "))
}

// Error reports a switch that began and failed. Before the commit the bus went back: it works
// on the old server, which has all messages. After the commit the streams are at the target,
// and the bus goes on there as soon as it is reached; see Committed.
type Error struct {
	Target    string // the URL, without credentials
	Phase     Phase  // in which it failed
	Committed bool   // the streams are at the target
	Err       error  // why

	// LeftBehind are copies at the target that could not be deleted. The next SwitchTo from
	// the same store directory deletes them. Those of a bus without a store directory must be
	// deleted by hand.
	LeftBehind []string
}

// Error says what failed, and where the streams are.
func (e *Error) Error() string {
	state := "the bus is where it was, with all messages"
	if e.Committed {
		state = "the streams are at the target, and the bus connects to it as soon as it can"
	}
	text := fmt.Sprintf("bus: the switch to %s failed in the phase %q: %v; %s", e.Target, e.Phase, e.Err, state)
	if len(e.LeftBehind) > 0 {
		text += fmt.Sprintf("; copies that do not count were left there: %s", strings.Join(e.LeftBehind, ", "))
	}
	return text
}

// Unwrap returns why.
func (e *Error) Unwrap() error { return e.Err }

// StreamMovedError reports a stream that a switch home has fenced at a server. Bus.Stream, Consume,
// PublishTo, Replay and what removes messages refuse it, since that would not count there, or would remove
// the only copy. Until the switch is committed, Stream.Delete and Stream.DeleteConsumer refuse it, too.
type StreamMovedError struct {
	Stream    string
	Committed bool // its messages are with the bus that has taken them home; else the only ones may be here
}

// Error says what to do.
func (e *StreamMovedError) Error() string {
	if !e.Committed {
		return fmt.Sprintf("bus: stream %q at this server stores nothing: a switch home is under way or was interrupted, and the only copy of its messages may be here; start the bus of that store directory first; do not delete the stream here", e.Stream)
	}
	return fmt.Sprintf("bus: stream %q at this server is what a switch home has left, and stores nothing: its messages are with the bus that took them home; use that one, or delete the stream here (Bus.LookupStream, Stream.Delete) to begin a new one", e.Stream)
}

// FencedError reports streams that do not have their subjects back after a switch home that has
// failed or was interrupted: nobody can store in them. A bus with the store directory of that
// switch gives them back as soon as their servers answer: while it runs, when it starts, and when
// it switches again. Until then its Health is Failed, and an event.ServerError has this error.
type FencedError struct {
	Target  string   // the URL of their servers, without credentials
	Streams []string // sorted
	Err     error    // why they do not have them yet
}

// Error names the streams and says what to do.
func (e *FencedError) Error() string {
	return fmt.Sprintf("bus: nobody can store in %s (%s) at %s: a switch home has failed or was interrupted, and has not given back their subjects yet: %s; "+
		"a bus with its store directory does that as soon as those servers answer: keep it running or start it again, see that the servers run, and let its user publish to $JS.API.STREAM.INFO.> and $JS.API.STREAM.UPDATE.>",
		plural.Of(len(e.Streams), "stream", "streams"), strings.Join(e.Streams, ", "), e.Target, strings.TrimPrefix(fmt.Sprint(e.Err), "bus: "))
}

// Unwrap returns why they do not have them yet.
func (e *FencedError) Unwrap() error { return e.Err }

// MovedError is the reason why a bus did not open: the streams of its store directory were
// moved to a server that does not fit to its options, or that cannot be reached. The streams
// in the directory are old, so the bus never uses them.
type MovedError struct {
	Dir     string // the store directory
	Target  string // where the streams are, without credentials
	URL     string // of WithURL, without credentials; empty without that option
	Missing bool   // the server at URL has none of the streams
	Err     error  // why the server at URL cannot be used, or at Target without a URL
}

// Error says where the streams are.
func (e *MovedError) Error() string {
	switch {
	case e.Missing:
		return fmt.Sprintf("bus: the streams of store directory %q were moved to %s, and the server of WithURL, %s, does not have them: %v; use the URL of that server or cluster, or remove WithStoreDir to leave the streams alone", e.Dir, e.Target, e.URL, e.Err)
	case e.URL != "":
		return fmt.Sprintf("bus: the streams of store directory %q were moved to %s, and WithURL names %s, which cannot be used now: %v; the data in the directory is old and never used, so start again when the server of WithURL can be used, or leave WithURL out to use %[2]s", e.Dir, e.Target, e.URL, e.Err)
	}
	return fmt.Sprintf("bus: the streams of store directory %q were moved to %s, which cannot be used now: %v; the data in the directory is old and never used, so start again when that server can be used", e.Dir, e.Target, e.Err)
}

// Unwrap returns why the server cannot be used.
func (e *MovedError) Unwrap() error { return e.Err }
