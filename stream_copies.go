package bus

import (
	"cmp"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

func setMirror(c *StreamConfig, js *jetstream.StreamConfig) {
	if !c.Mirror.none() {
		js.Mirror = c.Mirror.source()
	}
}

// mirrorEffect follows the server: a mirror can be made an ordinary stream, which
// copies no more, and nothing else.
func mirrorEffect(_, want *jetstream.StreamConfig) effect {
	if want.Mirror == nil {
		return shrinks
	}
	return remakes
}

func setSources(c *StreamConfig, js *jetstream.StreamConfig) {
	if len(c.Sources) == 0 {
		return
	}
	js.Sources = nil
	for i := range c.Sources {
		js.Sources = append(js.Sources, c.Sources[i].source())
	}
}

func sourcesEffect(have, want *jetstream.StreamConfig) effect {
	if len(missing(sourceTexts(have), sourceTexts(want))) > 0 {
		return shrinks
	}
	return keeps
}

func setTransform(c *StreamConfig, js *jetstream.StreamConfig) {
	if t := c.SubjectTransform; t != (SubjectTransform{}) {
		js.SubjectTransform = &jetstream.SubjectTransformConfig{Source: cmp.Or(t.From, ">"), Destination: t.To}
	}
}

func setRepublish(c *StreamConfig, js *jetstream.StreamConfig) {
	if r := c.Republish; r != (Republish{}) {
		js.RePublish = &jetstream.RePublish{Source: cmp.Or(r.From, ">"), Destination: r.To, HeadersOnly: r.HeadersOnly}
	}
}

// source is s as the server has it.
func (s *StreamSource) source() *jetstream.StreamSource {
	js := &jetstream.StreamSource{Name: s.Stream, FilterSubject: s.Subject, OptStartSeq: s.StartSequence, Domain: s.Domain}
	for _, t := range s.Transforms {
		js.SubjectTransforms = append(js.SubjectTransforms, jetstream.SubjectTransformConfig{Source: cmp.Or(t.From, ">"), Destination: t.To})
	}
	if !s.StartTime.IsZero() {
		at := s.StartTime.UTC()
		js.OptStartTime = &at
	}
	return js
}

// showSource shows s as it is on its way: the domain is a prefix there.
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
	return asJSON(&sent)
}

func sourceTexts(js *jetstream.StreamConfig) []string {
	var texts []string
	for _, s := range js.Sources {
		texts = append(texts, showSource(s))
	}
	slices.Sort(texts) // the server keeps no order
	return texts
}

func showSources(js *jetstream.StreamConfig) string { return strings.Join(sourceTexts(js), " ") }
