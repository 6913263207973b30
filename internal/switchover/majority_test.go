package switchover

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A copy is confirmed by requests that remove nothing, whatever the stream forbids.
func TestClusterConfirmsACopy(t *testing.T) {
	t.Parallel()
	s := &run{Config: Config{Target: newCluster(t)}}
	s.report.Replicas = 3
	js, err := jetstream.New(s.Target)
	if err != nil {
		t.Fatal(err)
	}
	eventuallyMakes(t, js)
	for name, c := range map[string]jetstream.StreamConfig{
		"plain": {}, "bucket": {DenyDelete: true}, "archive": {DenyDelete: true, DenyPurge: true},
	} {
		t.Run(name, func(t *testing.T) {
			c.Name, c.Subjects, c.Replicas = name, []string{name}, 3
			confirmsACopy(t, s, js, c)
		})
	}
	t.Run("without a stream", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*pollLimit)
		defer cancel()
		err := s.awaitMajority(ctx, &jetstream.StreamInfo{Config: jetstream.StreamConfig{Name: "none"}})
		if err == nil || !strings.Contains(err.Error(), "most replicas of stream none have not confirmed the copy") {
			t.Errorf("awaitMajority = %v", err)
		}
	})
}

// confirmsACopy confirms a stream with messages, of which a consumer has delivered one, and looks for a change.
func confirmsACopy(t *testing.T, s *run, js jetstream.JetStream, c jetstream.StreamConfig) {
	t.Helper()
	limited, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	st, err := js.CreateStream(limited, c)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		untilThereIsALeader(limited, t, func() error { _, err := js.Publish(limited, c.Name, nil); return err })
	}
	var consumer jetstream.Consumer
	untilThereIsALeader(limited, t, func() (err error) {
		consumer, err = st.CreateOrUpdateConsumer(limited, jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy})
		return err
	})
	untilThereIsALeader(limited, t, func() error { _, err := consumer.Next(); return err })
	before, err := consumer.Info(limited)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.awaitMajority(limited, st.CachedInfo()); err != nil {
		t.Fatal(err)
	}
	info, err := st.Info(limited)
	if err != nil || info.State.Msgs != 3 || info.State.FirstSeq != 1 {
		t.Errorf("the stream is %+v, %v", info, err)
	}
	if after, err := consumer.Info(limited); err != nil || position(after) != position(before) {
		t.Errorf("the consumer is %s, and not %s, %v", position(after), position(before), err)
	}
}

// untilThereIsALeader calls f again while nobody answers: what was just made has no leader for a moment.
func untilThereIsALeader(ctx context.Context, t *testing.T, f func() error) {
	t.Helper()
	for began := time.Now(); ; {
		err := f()
		if err == nil {
			return
		}
		if !errors.Is(err, nats.ErrNoResponders) || pause(ctx, began) != nil {
			t.Fatal(err)
		}
	}
}
