// Package permissions lists the subjects that the library uses on its own account, beside those
// of the program: what the user of a connection must be allowed. It is the only such list. The
// preflight of a switch tries each of it, and docs/wire.md has it as a table. It has no state.
package permissions

import (
	"slices"
	"strings"
)

// Root is how all subjects begin that are private to the library.
const Root = "$OMNIBUS."

// Own is the pattern of all subjects that are private to the library.
const Own = Root + ">"

// Crew is how the subjects begin on which the processes that share a durable with keys talk to
// each other.
const Crew = Root + "crew."

// JetStream is how all subjects of JetStream begin.
const JetStream = "$JS."

// records are the tokens after Root of what a durable publishes; keys are those of a durable
// with keys, which several processes share.
var (
	records = []string{"dead", "retry", "later", "note"}
	keys    = []string{"keys", "crew"}
)

// Feature is what a permission is for.
type Feature string

// The features.
const (
	Replies   Feature = "everything that waits for a reply"
	Streams   Feature = "streams, consumers, `Replay`"
	Acks      Feature = "consumers"
	Records   Feature = "consumers: dead letters, retries, recovery logs, keys"
	Sharing   Feature = "`Consume` with keys"
	Answers   Feature = "`Respond`, `Consume` with keys"
	Discovery Feature = "discovery of responders"
	Restore   Feature = "`SwitchTo`, to the target"
	Snapshots Feature = "`SwitchTo` home, from the server"
)

// Need is one permission.
type Need struct {
	Publish bool   // else to subscribe
	Subject string // a pattern
	For     Feature
}

// Inbox stands for the prefix of the inboxes in All.
const Inbox = "_INBOX.>"

// All returns all permissions. Who has them can use all features.
func All() []Need {
	return []Need{
		{false, Inbox, Replies},
		{true, "$JS.API.>", Streams},
		{true, "$JS.ACK.>", Acks},
		{true, Own, Records},
		{false, Crew + ">", Sharing},
		{true, Inbox, Answers},
		{false, "$SRV.>", Discovery},
		{true, "$JS.SNAPSHOT.RESTORE.>", Restore},
		{true, "$JS.SNAPSHOT.ACK.>", Snapshots},
	}
}

// InWords returns what the user of a bus needs, as part of a sentence, beside what is for a feature.
// prefix is that of the inboxes.
func InWords(prefix string, beside Feature) string {
	var publish, subscribe []string
	for _, n := range All() {
		subject := strings.Replace(n.Subject, Inbox, prefix+">", 1)
		switch {
		case n.For == beside:
		case n.For == Answers:
			subject += " (or allow_responses)"
			publish = append(publish, subject)
		case n.Publish:
			publish = append(publish, subject)
		default:
			subscribe = append(subscribe, subject)
		}
	}
	return "publish to " + list(publish) + ", and subscribe to " + list(subscribe)
}

// list joins words as a sentence does.
func list(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// OfDurable returns how the subjects begin that are used for a durable, without the dot that
// follows. shared says that processes may share it by key.
func OfDurable(stream, durable string, shared bool) []string {
	kinds := records
	if shared {
		kinds = slices.Concat(records, keys)
	}
	all := make([]string, 0, len(kinds))
	for _, kind := range kinds {
		all = append(all, Root+kind+"."+stream+"."+durable)
	}
	return all
}
