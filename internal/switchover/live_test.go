package switchover

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/switchover"
)

// newRun returns a switch from one server to another, before it has done anything.
func newRun(t *testing.T) *run {
	t.Helper()
	here, there := testserver.New(t, testserver.WithJetStream), testserver.New(t, testserver.WithJetStream)
	s := &run{Config: Config{Source: here.Conn(t), Target: there.Conn(t), ID: "test"}, report: switchover.Report{Replicas: 1},
		ids: dedup.NewCollector(dedup.Max), unpaced: make(chan struct{}), lives: make(map[string]*live), opened: make(map[string]*opened), comparing: newGroup(), making: make(chan struct{}, 1)}
	var errs [2]error
	s.sourceJS, errs[0] = jetstream.New(s.Source)
	s.targetJS, errs[1] = jetstream.New(s.Target)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return s
}

// newStream creates the stream S with n messages.
func (s *run) newStream(t *testing.T, n int) *jetstream.StreamInfo {
	t.Helper()
	if _, err := s.sourceJS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := s.sourceJS.Publish(t.Context(), "s", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	return s.infoOfS(t)
}

func (s *run) infoOfS(t *testing.T) *jetstream.StreamInfo {
	t.Helper()
	info, err := s.lookHere(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// A target that has got nothing for a while gets padding, also between messages and while others
// are skipped. The copy is none the worse for it.
func TestLiveCopyStaysOpen(t *testing.T) {
	t.Parallel()
	s := newRun(t)
	l := &live{info: s.newStream(t, 100)}
	silent := func() { l.sentAt = time.Now().Add(-padAfter - time.Millisecond) }
	mustSend := func(what string, err error) {
		t.Helper()
		if err != nil || time.Since(l.sentAt) > padAfter {
			t.Fatalf("%s: nothing was sent for %v: %v", what, time.Since(l.sentAt), err)
		}
	}
	var err error
	if l.copier, err = s.newCopier("S"); err != nil {
		t.Fatal(err)
	}
	l.reset(t.Context())
	silent() // before the first message
	if err := l.bulk(t.Context()); err != nil {
		t.Fatal(err)
	}
	silent()
	mustSend("all messages are skipped", l.bulkAgain(t.Context()))
	for i := range 10 {
		if _, err := s.sourceJS.Publish(t.Context(), "s", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		silent()
		mustSend("one message", l.tail(t.Context(), s.infoOfS(t)))
	}
	if err := l.complete(t.Context(), s.infoOfS(t)); err != nil {
		t.Fatal(err)
	}
	if there, err := look(t.Context(), s.targetJS, "S"); err != nil || there.State.Msgs != 110 {
		t.Errorf("the copy has %+v, %v", there, err)
	}
	l.close()
}

// The end of a copy sees that the target has it, and not the stream of somebody else.
func TestLiveCopyIsMade(t *testing.T) {
	t.Parallel()
	s := newRun(t)
	l := &live{copier: &copier{s: s, name: "S"}}
	info := s.newStream(t, 1)
	if _, err := s.targetJS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if err := l.isMade(t.Context(), info); !errors.Is(err, errLost) {
		t.Errorf("an empty stream: %v", err)
	}
	if _, err := s.targetJS.Publish(t.Context(), "s", nil); err != nil {
		t.Fatal(err)
	}
	if err := l.isMade(t.Context(), info); err == nil || errors.Is(err, errLost) {
		t.Errorf("another stream: %v", err)
	}
}

// The hold ends the wait of copies that keep to a rate.
func TestPaceEndsWithTheHold(t *testing.T) {
	t.Parallel()
	s := &run{Config: Config{CopyRate: 1 << 10}, unpaced: make(chan struct{})}
	if err := s.pace(t.Context(), 1<<30); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- s.pace(t.Context(), 1) }()
	close(s.unpaced)
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for the rate")
	}
}

// A consumer or a stream that is deleted has no settlements to wait for.
func TestBarrierWithoutConsumer(t *testing.T) {
	t.Parallel()
	s := newRun(t)
	info := s.newStream(t, 1)
	c, err := s.sourceJS.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	streams := []*jetstream.StreamInfo{info}
	if err := s.barrier(t.Context(), streams); err != nil {
		t.Error(err)
	}
	if err := s.sourceJS.DeleteConsumer(t.Context(), "S", "c"); err != nil {
		t.Fatal(err)
	}
	if err := s.processed(t.Context(), c.CachedInfo()); err != nil {
		t.Error(err)
	}
	if err := s.sourceJS.DeleteStream(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.barrier(t.Context(), streams), s.processed(t.Context(), c.CachedInfo())); err != nil {
		t.Error(err)
	}
}

// One copy that cannot be deleted does not keep the others.
func TestFailingWorksOnAllAtOnce(t *testing.T) {
	t.Parallel()
	second := make(chan struct{})
	left, err := failing([]string{"b", "a", "fine"}, func(name string) error {
		switch name {
		case "b":
			<-second
		case "a":
			close(second)
		default:
			return nil
		}
		return errors.New("no")
	})
	if !slices.Equal(left, []string{"a", "b"}) || err == nil {
		t.Errorf("left = %v, %v", left, err)
	}
}
