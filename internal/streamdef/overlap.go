package streamdef

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/subject"
)

// explainTimeout bounds how long an error waits for its explanation.
const explainTimeout = time.Second

// explainOverlap adds to err, the server's refusal of want, which other stream stores one of
// the subjects, if that is why.
func (d *Declarer) explainOverlap(ctx context.Context, want *jetstream.StreamConfig, err error) error {
	if !jserr.Is(err, jserr.SubjectsOverlap) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	for _, s := range want.Subjects {
		names := d.core.JetStream.StreamNames(ctx, jetstream.WithStreamListSubject(s))
		for name := range names.Name() {
			if name == want.Name {
				continue
			}
			if st, failed := d.core.JetStream.Stream(ctx, name); failed == nil {
				return fmt.Errorf("%w: stream %q stores %s, which overlaps with %q", err, name, quoted(overlapping(st, s)), s)
			}
		}
	}
	return err
}

// overlapping returns the subjects of st that overlap with s.
func overlapping(st jetstream.Stream, s string) (found []string) {
	for _, have := range st.CachedInfo().Config.Subjects {
		if subject.Overlap(have, s) {
			found = append(found, have)
		}
	}
	return found
}

// quoted lists subjects.
func quoted(subjects []string) string {
	texts := make([]string, len(subjects))
	for i, s := range subjects {
		texts[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(texts, ", ")
}
