package bus_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
)

// keysAfterKill is what a killed process and the next one do with a durable with keys: the stream K
// has numbers, whose key is n%4. The first of key 3 never succeeds, so no other one of that key may
// be handled. Some of the other keys are handled in the second attempt. A durable without keys has
// deferred that first one for an hour.
type keysAfterKill struct {
	mu      sync.Mutex
	stored  map[int]bool
	handled map[int][]int // by key, in their order
}

func newKeysAfterKill() *keysAfterKill {
	return &keysAfterKill{stored: make(map[int]bool), handled: make(map[int][]int)}
}

// line reads what the child said.
func (k *keysAfterKill) line(line string) {
	var n int
	switch {
	case scanned(line, "keyed %d", &n):
		k.add(n)
	case scanned(line, "kept %d", &n):
		k.stored[n] = true
	}
}

func (k *keysAfterKill) add(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.handled[n%4] = append(k.handled[n%4], n)
}

// consumeKeys consumes K, and calls tell for what is handled.
func consumeKeys(t *testing.T, st *bus.Stream, tell func(what string, n int)) {
	t.Helper()
	consume(t, st, "keys", "k.*", func(_ context.Context, m *bus.Msg[int]) error {
		switch {
		case m.Data == 3:
			return bus.RetryAfter(time.Hour, errNotYet)
		case m.Data%7 == 2 && m.Attempt < 2:
			return bus.RetryAfter(50*time.Millisecond, errNotYet)
		}
		tell("keyed", m.Data)
		return nil
	}, bus.KeyBySubject(), bus.AckWait(2*time.Second))
	consume(t, st, "later", "k.*", func(_ context.Context, m *bus.Msg[int]) error {
		if m.Data == 3 {
			tell("deferred", m.Data)
			return bus.RetryAfter(time.Hour, errNotYet)
		}
		return nil
	}, bus.AckWait(2*time.Second))
}

// storeAndHandleKeys is for the child. It returns when 3 is deferred, and goes on to store.
func storeAndHandleKeys(t *testing.T, b *bus.Bus, tell func(what string, n int)) {
	t.Helper()
	st := declare(t, b, bus.StreamConfig{Name: "K", Subjects: []string{"k.*"}})
	consumeKeys(t, st, tell)
	go func() { // ends with the process
		for n := 0; ; n++ {
			if _, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("k.%d", n%4)), n); err != nil {
				return
			}
			tell("kept", n)
		}
	}()
	eventually(t, "3 is deferred", func() bool { return deferredOf(t, b, "K", "later") == 1 })
}

// deferredOf returns how many messages of a durable wait in the retry stream.
func deferredOf(t *testing.T, b *bus.Bus, stream, durable string) int {
	t.Helper()
	st, err := b.JetStream().Stream(t.Context(), stream+"-retry")
	must(t, err)
	info, err := st.Info(t.Context(), jetstream.WithSubjectFilter("$OMNIBUS.later."+stream+"."+durable+".>"))
	must(t, err)
	return len(info.State.Subjects)
}

// handle consumes K in the process after the killed one.
func (k *keysAfterKill) handle(t *testing.T, b *bus.Bus) {
	t.Helper()
	consumeKeys(t, lookUp(t, b, "K"), func(what string, n int) {
		if what == "keyed" {
			k.add(n)
		} else {
			t.Error("the message that is deferred for an hour was handled again")
		}
	})
}

// mustBeInOrder stores another message of each key, waits until those that may be handled are, and
// checks their order. What a process handles again after a kill comes before all later ones.
func (k *keysAfterKill) mustBeInOrder(t *testing.T, b *bus.Bus) {
	t.Helper()
	st, last := lookUp(t, b, "K"), 1<<20
	for n := last; n < last+4; n++ {
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("k.%d", n%4)), n)
		must(t, err)
		k.stored[n] = true
	}
	for key := range 3 {
		within(t, time.Minute, fmt.Sprintf("key %d is handled", key), func() bool {
			k.mu.Lock()
			defer k.mu.Unlock()
			return slices.Contains(k.handled[key], last+key)
		})
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.handled[3]) > 0 || deferredOf(t, b, "K", "later") != 1 {
		t.Errorf("%d messages are deferred, and %v were handled behind a failing one", deferredOf(t, b, "K", "later"), k.handled[3])
	}
	seen := make(map[int]bool)
	for key := range 3 {
		highest := -1
		for _, n := range k.handled[key] {
			if n < highest && !seen[n] {
				t.Errorf("key %d: %d came after %d", key, n, highest)
			}
			seen[n], highest = true, max(highest, n)
		}
	}
	for n := range k.stored {
		if n%4 != 3 && !seen[n] {
			t.Errorf("%d was not handled", n)
		}
	}
}
