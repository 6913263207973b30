package consumer

import "testing"

// The server confirms a message before it counts it for its consumers: Lag knows of it
// nevertheless.
func TestLagCountsWhatWasJustStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Filters = []string{"s.a", "s.b"}
	c, err := Open(t.Context(), w.cfg) // not started: it takes nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	w.publish(t, "s.other")
	if l, err := c.Lag(t.Context()); err != nil || l.Waiting != 0 || !l.Oldest.IsZero() {
		t.Errorf("with a message that no filter matches: %+v, %v", l, err)
	}
	w.publish(t, "s.b")
	if l, err := c.Lag(t.Context()); err != nil || l.Waiting != 1 || l.Oldest.IsZero() {
		t.Errorf("with a message: %+v, %v", l, err)
	}
}
