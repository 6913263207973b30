package consumer

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// An Open whose answer was lost deletes the durable that it created, and none that another call
// created meanwhile.
func TestUncreateOnlyWhatThisCallCreated(t *testing.T) {
	t.Parallel()
	for call, want := range map[string]bool{"mine": false, "another": true, "": true} {
		w := newWorld(t)
		config := jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy}
		if call != "" {
			config.Metadata = map[string]string{createdKey: call}
		}
		if _, err := w.core.JetStream.CreateConsumer(t.Context(), "S", config); err != nil {
			t.Fatal(err)
		}
		c := &Consumer{cfg: w.cfg, did: change{created: "mine"}}
		if err := c.undo(); err != nil {
			t.Error(err)
		}
		if _, err := w.core.JetStream.Consumer(t.Context(), "S", "d"); (err == nil) != want {
			t.Errorf("after the undo the durable of call %q is there: %t, want %t", call, err == nil, want)
		}
	}
}

// Of two calls that create a durable at once one creates it. The other does not undo that.
func TestTwoCallsCreateADurable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, first, err := declare(t.Context(), &w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := wanted(&w.cfg)
	if _, err := create(t.Context(), &w.cfg, want, "another"); err == nil {
		t.Error("it was created twice")
	}
	_, second, err := declare(t.Context(), &w.cfg)
	if err != nil || first.created == "" || second.created != "" {
		t.Errorf("the calls did %+v and %+v, %v", first, second, err)
	}
}
