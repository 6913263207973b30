package capture

import (
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/wire"
)

// Content says what one stream stores. It is never changed.
type Content struct {
	Subjects []string // the patterns of the stream itself
	copies   bool     // it also has messages of other streams, or on other subjects than they were published to
}

// ContentOf returns what the stream of info stores: nothing if a switch home has fenced it.
func ContentOf(info *jetstream.StreamInfo) *Content {
	c := &info.Config
	if moved, _ := wire.Moved(c.Metadata); moved {
		return &Content{}
	}
	return &Content{Subjects: c.Subjects, copies: c.Mirror != nil || len(c.Sources) > 0 || c.SubjectTransform != nil}
}

// Stores reports whether the stream stores a message published to subj.
func (c *Content) Stores(subj string) bool {
	return slices.ContainsFunc(c.Subjects, func(p string) bool { return subject.Matches(p, subj) })
}

// MayHave reports whether the stream may have messages that match a pattern.
func (c *Content) MayHave(pattern string) bool {
	return c.copies || slices.ContainsFunc(c.Subjects, func(p string) bool { return subject.Overlap(p, pattern) })
}

// Hint tells a user what the stream stores, as the end of an error's text.
func (c *Content) Hint() string {
	if len(c.Subjects) == 0 {
		return "it stores nothing but copies of other streams; publish to where they come from"
	}
	return "it stores " + strings.Join(c.Subjects, ", ")
}
