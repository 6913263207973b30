package sidestream

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A durable is deleted from S-retry and S-keys. Its dead letters and another durable stay.
func TestDeleteDurable(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	other, err := Open(t.Context(), c, s.stream, "d2", time.Minute)
	must(t, err)
	must(t, DeclareKeys(t.Context(), c, s.stream))
	for _, store := range []*Store{s, other} {
		must(t, store.PutDeadLetter(t.Context(), failedDelivery(1), "error"))
		must(t, store.DeferRetry(t.Context(), failedDelivery(2), time.Now().Add(time.Hour)))
		for _, subject := range []string{store.Address(3).Subject(Retry), store.Address(4).StartMark("x"), store.Address(0).HandbackRecords(),
			"$OMNIBUS.keys.S." + store.durable + ".claim"} {
			_, err := c.JetStream.Publish(t.Context(), subject, nil)
			must(t, err)
		}
	}
	if found, err := DeleteDurable(t.Context(), c, "S", "d"); !found || err != nil {
		t.Errorf("found: %t, %v", found, err)
	}
	mustHave(t, c, "S-dead", s.Address(1).Subject(Dead), other.Address(1).Subject(Dead))
	mustHave(t, c, "S-retry", other.Address(2).Subject(Later), other.Address(3).Subject(Retry), other.Address(4).StartMark("x"), other.Address(0).HandbackRecords())
	mustHave(t, c, "S-keys", "$OMNIBUS.keys.S.d2.claim")
	if _, err := c.JetStream.Consumer(t.Context(), "S-retry", "d2"); err != nil {
		t.Error(err)
	}
	if found, err := DeleteDurable(t.Context(), c, "S", "d"); found || err != nil {
		t.Errorf("the second time: found: %t, %v", found, err)
	}
}

// Without side streams there is nothing to delete.
func TestDeleteOfNothing(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	_, err := DeleteAll(t.Context(), c, "S")
	must(t, err)
	if found, err := DeleteDurable(t.Context(), c, s.stream.Name, "d"); found || err != nil {
		t.Errorf("found: %t, %v", found, err)
	}
	_, err = c.JetStream.Stream(t.Context(), "S")
	must(t, err)
	if _, err := c.JetStream.Stream(t.Context(), "S-dead"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("got %v", err)
	}
}

// Leftovers are removed once the durable and its consumer in S-retry are gone, and not before.
func TestRemoveLeftovers(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	_, err := c.JetStream.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy})
	must(t, err)
	later := s.Address(2).Subject(Later)
	must(t, s.DeferRetry(t.Context(), failedDelivery(2), time.Now().Add(time.Hour)))
	must(t, s.RemoveLeftovers(t.Context()))
	mustHave(t, c, "S-retry", later)
	must(t, c.JetStream.DeleteConsumer(t.Context(), "S", "d"))
	must(t, s.RemoveLeftovers(t.Context())) // somebody deleted the durable only, perhaps to make it anew
	mustHave(t, c, "S-retry", later)
	must(t, c.JetStream.DeleteConsumer(t.Context(), "S-retry", "d"))
	must(t, s.RemoveLeftovers(t.Context()))
	mustHave(t, c, "S-retry")
}

// The consumer in S-retry is not made again for a durable that is gone.
func TestRecreateWithoutTheDurable(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	must(t, c.JetStream.DeleteConsumer(t.Context(), "S-retry", "d"))
	must(t, s.Recreate(t.Context()))
	if _, err := c.JetStream.Consumer(t.Context(), "S-retry", "d"); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("got %v", err)
	}
	_, err := c.JetStream.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy})
	must(t, err)
	must(t, s.Recreate(t.Context()))
	_, err = c.JetStream.Consumer(t.Context(), "S-retry", "d")
	must(t, err)
}
