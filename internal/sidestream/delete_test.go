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
