package capture_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/capture"
	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/testserver"
)

// An acknowledgement is believed unless the server says that no such stream stores the
// subject.
func TestIsAnswerOf(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, testserver.WithJetStream)
	l := s.Link(t)
	js, err := jetstream.New(l.Conn())
	if err != nil {
		t.Fatal(err)
	}
	x := capture.New(&core.Core{Link: l, JetStream: js, Timeout: 5 * time.Second})
	for _, c := range []jetstream.StreamConfig{{Name: "A", Subjects: []string{"a"}}, {Name: "QUIET", Subjects: []string{"q"}, NoAck: true}} {
		c.Storage = jetstream.MemoryStorage
		if _, err := js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		subject, stream, domain string
		want                    bool
	}{
		{"a", "A", "", true},
		{"a", "A", "unknown", true}, // a stream of this domain stores the subject
		{"b", "A", "", false},
		{"b", "A", "unknown", false},
		{"b", "GONE", "", false},
		{"q", "QUIET", "", false},
	} {
		if got := x.IsAnswerOf(t.Context(), tc.subject, tc.stream, tc.domain); got != tc.want {
			t.Errorf("%+v: got %t", tc, got)
		}
	}
	if found(x, "a") != "A" {
		t.Error("the stream is still unknown")
	}
	l.Close()
	if !x.IsAnswerOf(t.Context(), "b", "A", "") {
		t.Error("without a connection it is not believed")
	}
}

// The acknowledgement of a stream in another JetStream domain names that domain.
func TestIsAnswerOfDomain(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, testserver.WithJetStream, func(o *server.Options) { o.JetStreamDomain = "hub" })
	l := s.Link(t)
	js, err := jetstream.New(l.Conn())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "A", Subjects: []string{"a"}, Storage: jetstream.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	elsewhere, err := jetstream.NewWithDomain(l.Conn(), "leaf") // the bus's own domain, without that stream
	if err != nil {
		t.Fatal(err)
	}
	x := capture.New(&core.Core{Link: l, JetStream: elsewhere, Timeout: 5 * time.Second})
	for subj, want := range map[string]bool{"a": true, "b": false} {
		if got := x.IsAnswerOf(t.Context(), subj, "A", "hub"); got != want {
			t.Errorf("%s: got %t", subj, got)
		}
	}
}
