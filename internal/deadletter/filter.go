package deadletter

import (
	"slices"
	"strings"
	"time"

	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/subject"
)

// Filter chooses dead letters. Each field that is set must match; the zero value matches
// all.
type Filter struct {
	Durable  string
	Subject  string // a pattern
	Cause    string
	Sequence uint64              // of the message in its stream
	Header   map[string][]string // the message has all these values; names in any spelling
	From, To time.Time           // DeadAt is not before From and before To

	Match func(*Message) (bool, error) // asked last; its error ends the operation
}

// pattern returns the pattern of the subjects that may match.
func (f *Filter) pattern(stream string) string {
	if f.Durable == "" {
		return sidestream.Pattern(sidestream.Dead, stream)
	}
	return sidestream.DurablePattern(sidestream.Dead, stream, f.Durable)
}

// onlyDurable reports whether pattern decides alone.
func (f *Filter) onlyDurable() bool {
	return f.Subject == "" && f.Cause == "" && f.Sequence == 0 && len(f.Header) == 0 && f.From.IsZero() && f.To.IsZero() && f.Match == nil
}

// matches reports whether m, whose subject in S-dead matches pattern, matches f.
func (f *Filter) matches(m *Message) (bool, error) {
	switch {
	case f.Subject != "" && !subject.Matches(f.Subject, m.Subject),
		f.Cause != "" && f.Cause != m.Cause,
		f.Sequence != 0 && f.Sequence != m.Sequence,
		!f.From.IsZero() && m.DeadAt.Before(f.From),
		!f.To.IsZero() && !m.DeadAt.Before(f.To),
		!hasHeader(m.Header, f.Header):
		return false, nil
	case f.Match != nil:
		return f.Match(m)
	}
	return true, nil
}

// hasHeader reports whether have has all values of wanted.
func hasHeader(have, wanted map[string][]string) bool {
	for name, values := range wanted {
		var found []string
		for key, v := range have {
			if strings.EqualFold(key, name) {
				found = append(found, v...)
			}
		}
		for _, v := range values {
			if !slices.Contains(found, v) {
				return false
			}
		}
	}
	return true
}
