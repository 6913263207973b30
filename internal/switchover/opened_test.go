package switchover

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// newClusterRun returns a switch from one server to a cluster, and the stream S with 10 messages.
func newClusterRun(t *testing.T) (*run, *jetstream.StreamInfo) {
	t.Helper()
	s := newRun(t)
	s.report.Replicas, s.Target = 3, newCluster(t)
	var err error
	if s.targetJS, err = jetstream.New(s.Target); err != nil {
		t.Fatal(err)
	}
	info := s.newStream(t, 10)
	s.infos = []*jetstream.StreamInfo{info}
	s.describe()
	eventuallyMakes(t, s.targetJS)
	return s, info
}

// A restore that begins before the hold gets the stream in it, also much later than a restore
// without chunks lasts.
func TestClusterOpensRestore(t *testing.T) {
	t.Parallel()
	s, _ := newClusterRun(t)
	if err := s.openAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sleep(t.Context(), silentLimit); err != nil {
		t.Fatal(err)
	}
	if _, err := s.sourceJS.Publish(t.Context(), "s", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.opened["S"].fill(t.Context(), s.infoOfS(t)); err != nil {
		t.Fatal(err)
	}
	if there, err := s.await(t.Context(), s.infoOfS(t)); err != nil || there.State.Msgs != 11 || there.Config.Metadata[keyMark] != s.ID {
		t.Errorf("the copy is %+v, %v", there, err)
	}
}

// silentLimit is more than a server waits for a chunk.
const silentLimit = 5500 * time.Millisecond

// A stream that has changed since its restore began is copied anew.
func TestClusterOpensRestoreOfAStreamThatHasChanged(t *testing.T) {
	t.Parallel()
	s, info := newClusterRun(t)
	if err := s.openAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	config := info.Config
	config.Description = "changed"
	if _, err := s.sourceJS.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if err := s.copyOne(t.Context(), s.infoOfS(t)); err != nil {
		t.Fatal(err)
	}
	if there, err := s.await(t.Context(), info); err != nil || there.Config.Description != "changed" || len(s.report.Warnings) != 1 {
		t.Errorf("the copy is %+v, %v; the warnings are %v", there, err, s.report.Warnings)
	}
}

// What has begun and got nothing goes at once: when the stream is deleted, and on the way back. The
// name is free then.
func TestClusterOpensRestoreThatIsNotWanted(t *testing.T) {
	t.Parallel()
	s, _ := newClusterRun(t)
	for what, remove := range map[string]func() error{
		"gone": func() error {
			s.report.Streams = nil
			return s.dropGone(t.Context())
		},
		"back": func() error {
			s.abandonOpened()
			return s.removeOwn(t.Context(), "S")
		},
	} {
		if err := s.openAll(t.Context()); err != nil {
			t.Fatal(what, err)
		}
		if err := remove(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := s.targetJS.Stream(t.Context(), "S"); !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("%s: the target has the stream: %v", what, err)
		}
		s.describe()
	}
}
