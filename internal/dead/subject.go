package dead

import (
	"strconv"
	"strings"
	"time"
)

// The kinds of copies: the second token of their subjects.
const (
	Dead  = "dead"
	Retry = "retry"
	Later = "later"
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
}

// Subject returns the subject of the copy of a kind.
func (p Place) Subject(kind string) string {
	return strings.Join([]string{root + kind, p.Stream, p.Durable, p.Incarnation, strconv.FormatUint(p.Sequence, 10)}, ".")
}

// ParseSubject returns the kind and place of a copy by its subject.
func ParseSubject(subject string) (kind string, p Place, ok bool) {
	rest, ours := strings.CutPrefix(subject, root)
	parts := strings.Split(rest, ".")
	if !ours || len(parts) != 5 {
		return "", Place{}, false
	}
	sequence, err := strconv.ParseUint(parts[4], 10, 64)
	if err != nil {
		return "", Place{}, false
	}
	return parts[0], Place{Stream: parts[1], Durable: parts[2], Incarnation: parts[3], Sequence: sequence}, true
}
