package sidestream

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/permissions"
	"github.com/omnibus-go/bus/internal/wire"
)

// Kind is what a message in a side stream is: the second token of its subject.
type Kind string

// The kinds.
const (
	Dead  Kind = "dead"  // a dead letter
	Retry Kind = "retry" // a copy that is handled as soon as possible
	Later Kind = "later" // a copy that becomes a Retry at its time
	Note  Kind = "note"  // a record of package recovery
	Keys  Kind = "keys"  // a lease or a settle record of package ownership
)

const root = permissions.Root

// DeadStream returns the name of the stream with the dead letters of stream.
func DeadStream(stream string) string { return stream + "-dead" }

// RetryStream returns the name of the stream with the messages of stream that come back.
func RetryStream(stream string) string { return stream + "-retry" }

// KeysStream returns the name of the stream with the leases of the durables of stream.
func KeysStream(stream string) string { return stream + "-keys" }

// Prefix returns the first two tokens of the subjects of a kind.
func Prefix(kind Kind) string { return root + string(kind) }

// Pattern returns the pattern of all subjects of a kind beside stream.
func Pattern(kind Kind, stream string) string { return Prefix(kind) + "." + stream + ".>" }

// DurablePattern returns the pattern of all subjects of a kind that belong to a durable.
func DurablePattern(kind Kind, stream, durable string) string {
	return Prefix(kind) + "." + stream + "." + durable + ".>"
}

// IncarnationOf returns the incarnation of a stream, see wire.Incarnation.
func IncarnationOf(info *jetstream.StreamInfo) string {
	return wire.Incarnation(info.Config.Metadata, info.Created)
}

// Address identifies a message and a durable. The subjects of its copies follow from it.
type Address struct {
	Stream, Durable string
	Incarnation     string
	Sequence        uint64
	Key             string // KeyToken of the message's key, or empty
}

// KeyToken returns the token that stands for a key in subjects. A key may have any form
// and length; its token is 24 hexadecimal digits.
func KeyToken(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:12])
}

// Subject returns the subject of the copy of a kind.
func (a Address) Subject(kind Kind) string {
	return a.join(kind, strconv.FormatUint(a.Sequence, 10), a.Key)
}

// KeyPattern returns the pattern of the copies of a kind that have a's key. If a has no
// key it is the pattern of the copies with any key.
func (a Address) KeyPattern(kind Kind) string {
	if a.Key == "" {
		return a.join(kind, "*", "*")
	}
	return a.join(kind, "*", a.Key)
}

// StartMark returns the subject of the crash mark: a run of a consumer has started the
// handler of the message, and it has not returned. "*" stands for all runs.
func (a Address) StartMark(run string) string {
	return a.join(Note, "began", strconv.FormatUint(a.Sequence, 10)) + "." + run
}

// HandbackRecords returns the subject of the records of what the durable returned.
func (a Address) HandbackRecords() string { return a.join(Note, "back", "") }

// OwnerMark returns the subject of the mark of the process that owns the durable. See
// Followers.
func (a Address) OwnerMark() string { return a.join(Note, "owner", "") }

// Anchor returns the subject of the message that keeps the last block of S-retry from being
// empty while followers return. See Followers.
func (a Address) Anchor() string { return a.join(Later, anchorToken, "") }

const anchorToken = "anchor"

// isAnchor reports whether a subject of a Later is that of an anchor, of any incarnation.
func isAnchor(subject string) bool { return strings.HasSuffix(subject, "."+anchorToken) }

// RecoveryPattern returns the pattern of all marks and records of the durable.
func (a Address) RecoveryPattern() string { return a.join(Note, ">", "") }

// join returns the subject with these tokens. The last may be empty.
func (a Address) join(kind Kind, token, last string) string {
	s := strings.Join([]string{Prefix(kind), a.Stream, a.Durable, a.Incarnation, token}, ".")
	if last == "" {
		return s
	}
	return s + "." + last
}

// ParseSubject is the reverse of Address.Subject.
func ParseSubject(subject string) (kind Kind, a Address, ok bool) {
	rest, ours := strings.CutPrefix(subject, root)
	parts := strings.Split(rest, ".")
	if !ours || len(parts) != 5 && len(parts) != 6 {
		return "", Address{}, false
	}
	sequence, err := strconv.ParseUint(parts[4], 10, 64)
	if err != nil {
		return "", Address{}, false
	}
	a = Address{Stream: parts[1], Durable: parts[2], Incarnation: parts[3], Sequence: sequence}
	if len(parts) == 6 {
		a.Key = parts[5]
	}
	return Kind(parts[0]), a, a.Key != "" || len(parts) == 5
}

// ParseStartMark returns the sequence of the message that a crash mark is about.
func ParseStartMark(subject string) (sequence uint64, ok bool) {
	parts := strings.Split(strings.TrimPrefix(subject, root), ".")
	if len(parts) != 7 || Kind(parts[0]) != Note || parts[4] != "began" {
		return 0, false
	}
	sequence, err := strconv.ParseUint(parts[5], 10, 64)
	return sequence, err == nil
}
