package dead

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

// The kinds of copies: the second token of their subjects.
const (
	Dead  = "dead"
	Retry = "retry"
	Later = "later"
	Note  = "note"
)

const root = "$OMNIBUS."

// StreamOf returns the name of the stream that keeps the dead letters of stream.
func StreamOf(stream string) string { return stream + "-" + Dead }

// RetryStreamOf returns the name of the stream of what is handled once more.
func RetryStreamOf(stream string) string { return stream + "-" + Retry }

// Name returns what the subjects of all copies of a kind begin with.
func Name(kind string) string { return root + kind }

// SubjectsOf returns the pattern of all copies of a kind.
func SubjectsOf(kind, stream string) string { return root + kind + "." + stream + ".>" }

// SubjectsOfDurable returns the pattern of the copies of a kind that belong to a
// durable.
func SubjectsOfDurable(kind, stream, durable string) string {
	return root + kind + "." + stream + "." + durable + ".>"
}

// Incarnation tells a stream from an earlier one of its name, whose sequences it
// repeats.
func Incarnation(created time.Time) string { return strconv.FormatInt(created.UnixNano(), 36) }

// Place is where the copy of a message belongs.
type Place struct {
	Stream, Durable string
	Incarnation     string
	Sequence        uint64
	Key             string // KeyToken of the message's key, empty where it has none
}

// KeyToken returns what stands for a key in subjects: keys may be of any form and
// length.
func KeyToken(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:12])
}

// Subject returns the subject of the copy of a kind.
func (p Place) Subject(kind string) string {
	return p.on(kind, strconv.FormatUint(p.Sequence, 10), p.Key)
}

// OfKey returns the pattern of the copies of a kind that have p's key; those of all
// keys where p has none.
func (p Place) OfKey(kind string) string {
	if p.Key == "" {
		return p.on(kind, "*", "*")
	}
	return p.on(kind, "*", p.Key)
}

// Began returns the subject of the mark that says that a life of a consumer has begun
// p's message; "*" for all lives.
func (p Place) Began(life string) string {
	return p.on(Note, "began", strconv.FormatUint(p.Sequence, 10)) + "." + life
}

// GivenBack returns the subject of the notes with what p's durable gave back.
func (p Place) GivenBack() string { return p.on(Note, "back", "") }

// Notes returns the pattern of all marks and notes of p's durable.
func (p Place) Notes() string { return p.on(Note, ">", "") }

// on joins the tokens of a subject; the last may be missing.
func (p Place) on(kind, token, last string) string {
	s := strings.Join([]string{root + kind, p.Stream, p.Durable, p.Incarnation, token}, ".")
	if last == "" {
		return s
	}
	return s + "." + last
}

// ParseSubject returns the kind and place of a copy by its subject.
func ParseSubject(subject string) (kind string, p Place, ok bool) {
	rest, ours := strings.CutPrefix(subject, root)
	parts := strings.Split(rest, ".")
	if !ours || len(parts) != 5 && len(parts) != 6 {
		return "", Place{}, false
	}
	sequence, err := strconv.ParseUint(parts[4], 10, 64)
	if err != nil {
		return "", Place{}, false
	}
	p = Place{Stream: parts[1], Durable: parts[2], Incarnation: parts[3], Sequence: sequence}
	if len(parts) == 6 {
		p.Key = parts[5]
	}
	return parts[0], p, p.Key != "" || len(parts) == 5
}

// ParseBegan returns the sequence of the message that a mark is about.
func ParseBegan(subject string) (sequence uint64, ok bool) {
	parts := strings.Split(strings.TrimPrefix(subject, root), ".")
	if len(parts) != 7 || parts[0] != Note || parts[4] != "began" {
		return 0, false
	}
	sequence, err := strconv.ParseUint(parts[5], 10, 64)
	return sequence, err == nil
}
