package recovery

import (
	"errors"
	"testing"

	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// keyed returns a message with the key k.
func keyed(sequence uint64) wire.Delivery {
	d := delivery(sequence, 1)
	d.Stored.Key = "k"
	return d
}

// returned returns the copy of keyed(sequence) from S-retry.
func returned(sequence uint64) wire.Delivery {
	d := keyed(sequence)
	d.Stored.Source = 1
	return d
}

// bury makes keyed(sequence) a dead letter.
func bury(t *testing.T, c Config, sequence uint64) {
	t.Helper()
	d := keyed(sequence)
	d.Stored.Dead = errors.New("no luck")
	must(t, c.Store.PutDeadLetter(t.Context(), &d, "error"))
}

// redrive stores the copy of keyed(sequence) in S-retry and removes its dead letter.
func redrive(t *testing.T, c Config, sequence uint64) {
	t.Helper()
	d := keyed(sequence)
	a := c.Store.AddressOf(&d)
	must(t, sidestream.StoreCopy(t.Context(), c.Core, sidestream.Retry, sidestream.CopyOf(&d, 0).Message(a.Subject(sidestream.Retry))))
	m, err := c.Store.DeadLetters.GetLastMsgForSubject(t.Context(), a.Subject(sidestream.Dead))
	must(t, err)
	must(t, c.Store.DeadLetters.DeleteMsg(t.Context(), m.Sequence))
}

// mustRun fails the test unless d runs, or waits, or is barred by the dead letter with a
// sequence.
func mustRun(t *testing.T, l *Log, d wire.Delivery, wait bool, barredBy uint64) {
	t.Helper()
	gotWait, barred := l.MayRun(d)
	var by uint64
	if blocked, ok := errors.AsType[*BlockedKeyError](barred); ok {
		by = blocked.Sequence
	} else if barred != nil {
		t.Errorf("message %d: %v", d.Stored.Sequence, barred)
	}
	if gotWait != wait || by != barredBy {
		t.Errorf("message %d: wait %t, barred by %d; want %t, %d", d.Stored.Sequence, gotWait, by, wait, barredBy)
	}
}

// A key goes through its states: free, blocked, returning, free.
func TestBlockedKey(t *testing.T) {
	t.Parallel()
	c := newConfig(t)
	c.Keyed, c.BlockKeys = true, true
	l := open(t, c)
	mustRun(t, l, keyed(5), false, 0)
	bury(t, c, 5)
	d := keyed(5)
	l.RecordDeadLetter(&d)
	l.RecordDeadLetter(&d)
	for _, l := range []*Log{l, open(t, c)} { // also after a restart
		mustRun(t, l, keyed(4), false, 0)
		mustRun(t, l, keyed(6), false, 5)
		mustRun(t, l, returned(5), false, 0) // between the two steps of a redrive
		if _, barred := l.MayRun(keyed(5)); !errors.Is(barred, errDeadAlready) {
			t.Errorf("its own dead letter: %v", barred)
		}
		other := keyed(9)
		other.Stored.Key = "other"
		mustRun(t, l, other, false, 0)
	}
	redrive(t, c, 5)
	for _, l := range []*Log{l, open(t, c)} {
		mustRun(t, l, keyed(6), true, 0)
		mustRun(t, l, keyed(4), false, 0)
		mustRun(t, l, returned(5), false, 0)
	}
	must(t, c.Store.Retries.Purge(t.Context()))
	mustRun(t, l, keyed(6), false, 0)
	if l.keys.any() {
		t.Error("the key is not free")
	}
}

// Without BlockKeys dead letters bar nothing; copies that come back still go first.
func TestKeysThatAreNotBlocked(t *testing.T) {
	t.Parallel()
	c := newConfig(t)
	c.Keyed = true
	l := open(t, c)
	bury(t, c, 5)
	d := keyed(5)
	l.RecordDeadLetter(&d)
	mustRun(t, l, keyed(6), false, 0)
	redrive(t, c, 5)
	mustRun(t, open(t, c), keyed(6), true, 0)
}
