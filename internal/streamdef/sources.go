package streamdef

import (
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// mirrorEffect follows the server: a mirror can become an ordinary stream, which copies
// nothing more. A stream cannot become a mirror, or the mirror of another stream.
func mirrorEffect(_, want *jetstream.StreamConfig) effect {
	if want.Mirror == nil {
		return shrinks
	}
	return recreates
}

func sourcesEffect(have, want *jetstream.StreamConfig) effect {
	if len(missing(sourceTexts(have), sourceTexts(want))) > 0 {
		return shrinks
	}
	return keeps
}

// showSource shows a mirror or source as the server returns it: a domain becomes the prefix
// of its API subjects, and times are in UTC.
func showSource(s *jetstream.StreamSource) string {
	if s == nil {
		return "none"
	}
	sent := *s
	if s.Domain != "" {
		sent.External = &jetstream.ExternalStream{APIPrefix: "$JS." + s.Domain + ".API"}
	}
	if s.OptStartTime != nil {
		at := s.OptStartTime.UTC()
		sent.OptStartTime = &at
	}
	return showJSON(&sent)
}

// sourceTexts shows the sources of js, sorted: the server does not keep their order.
func sourceTexts(js *jetstream.StreamConfig) []string {
	var texts []string
	for _, s := range js.Sources {
		texts = append(texts, showSource(s))
	}
	slices.Sort(texts)
	return texts
}

func showSources(js *jetstream.StreamConfig) string {
	return orNone(strings.Join(sourceTexts(js), " "))
}
