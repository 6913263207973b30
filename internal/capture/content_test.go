package capture_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/capture"
)

func TestContent(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name            string
		config          jetstream.StreamConfig
		stores, mayHave bool // "a.b" and "a.>"
		hint            string
	}{
		{"its own", jetstream.StreamConfig{Subjects: []string{"x", "a.*"}}, true, true, "it stores x, a.*"},
		{"others", jetstream.StreamConfig{Subjects: []string{"x"}}, false, false, "it stores x"},
		{"a mirror", jetstream.StreamConfig{Mirror: &jetstream.StreamSource{}}, false, true,
			"it stores nothing but copies of other streams; publish to where they come from"},
		{"sources", jetstream.StreamConfig{Subjects: []string{"x"}, Sources: []*jetstream.StreamSource{{}}}, false, true, "it stores x"},
		{"a transform", jetstream.StreamConfig{Subjects: []string{"x"}, SubjectTransform: &jetstream.SubjectTransformConfig{}}, false, true, "it stores x"},
	} {
		c := capture.ContentOf(&jetstream.StreamInfo{Config: tc.config})
		if c.Stores("a.b") != tc.stores || c.MayHave("a.>") != tc.mayHave || c.Hint() != tc.hint {
			t.Errorf("%s: got %t, %t, %q", tc.name, c.Stores("a.b"), c.MayHave("a.>"), c.Hint())
		}
	}
}
