package serverversion

import "fmt"

// Oldest is the oldest supported server. It keeps metadata of streams and consumers, in which
// StreamConfig.Revision lies, and durables with several filters.
var Oldest = Version{Major: 2, Minor: 10}

// Feature is something that only newer servers can do.
type Feature struct {
	Call  string  // who needs it, as in docs/modes.md: the call or the option
	Since Version // the first server that has it
	Level int     // the JetStream API level of that server
	Hint  string  // what can be done without it
}

// What needs a server newer than Oldest.
var (
	// ExpectLastSequenceOf: an older server does not look at the pattern, and compares with
	// the subject of the message itself.
	ExpectLastSequenceOf = Feature{"ExpectLastSequenceOf", Version{2, 11, 0}, 1, "or use ExpectLastSubjectSequence or ExpectLastSequence"}
	// TTL: an older server keeps the message for ever.
	TTL = Feature{"TTL", Version{2, 11, 0}, 1, "or leave TTL out and set MaxAge of the stream"}
	// SharedKeys: the members of a durable with keys write what they settled under a lease, by
	// the condition that ExpectLastSequenceOf uses.
	SharedKeys = Feature{"Consume with KeyBy or KeyByToken", Version{2, 11, 0}, 1, "or keep the order of the whole durable: no key, one process, Concurrency(1)"}
	// Pause holds for Resume too: an older server knows neither.
	Pause  = Feature{"Pause", Version{2, 11, 0}, 1, "or end the consumers of the durable with Drain"}
	Resume = Feature{"Resume", Version{2, 11, 0}, 1, "or leave it out: nothing can be paused there"}
	// PublishToBatch: an older server stores all items but one, one by one.
	PublishToBatch = Feature{"PublishToBatch", Version{2, 12, 0}, 2, "or store one message that holds all items"}
	// Rewind: an older server cannot set a durable back.
	Rewind = Feature{"Rewind", Version{2, 14, 0}, 4, "or consume by another durable with StartAtSequence or StartAtTime"}
)

// BatchedReads is that a server sends many messages for one request. From others, reader
// takes them one by one.
var BatchedReads = Feature{Call: "Replay in batches", Since: Version{2, 11, 0}, Level: 1}

// Schedules is needed to keep a message until a time. With an older server retries wait in
// the memory of the process.
var Schedules = Feature{Call: "Retries on the server", Since: Version{2, 12, 0}, Level: 2}

// Features are those whose calls fail on an older server.
var Features = []Feature{ExpectLastSequenceOf, TTL, SharedKeys, Pause, Resume, PublishToBatch, Rewind}

// fieldLevels are the first servers with the API levels that fields of a stream's
// configuration need.
var fieldLevels = map[int]Version{1: {2, 11, 0}, 2: {2, 12, 0}, 4: {2, 14, 0}}

// OfLevel returns the first server with an API level. ok is false for an unknown level.
func OfLevel(level int) (v Version, ok bool) {
	v, ok = fieldLevels[level]
	return v, ok
}

// Has reports whether the server has f.
func (s Server) Has(f Feature) bool { return s.Version.AtLeast(f.Since) }

// Error reports a server that is too old. It is returned before anything was sent.
type Error struct {
	Feature
	Server Server
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s needs nats-server %v, the server has %s", e.Call, e.Since, e.Server.Text)
}

// Check returns an *Error if the server does not have f.
func (s Server) Check(f Feature) error {
	if s.Has(f) {
		return nil
	}
	return &Error{Feature: f, Server: s}
}

// CheckSupported returns an *Error if the server is older than Oldest.
func (s Server) CheckSupported() error {
	return s.Check(Feature{Call: "Connect", Since: Oldest, Hint: "or connect to another server"})
}
