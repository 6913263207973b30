package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// BlockedKeyError is the failure of a message whose key has an earlier dead letter.
type BlockedKeyError struct{ Sequence uint64 } // of that dead letter

func (e *BlockedKeyError) Error() string {
	return fmt.Sprintf("bus: message %d, an earlier one of the same key, is a dead letter", e.Sequence)
}

// errDeadAlready is the failure of a message that has a dead letter already. A process
// stored that and died before it terminated the message.
var errDeadAlready = errors.New("bus: it became a dead letter before the process ended")

// blockedKeys knows which keys of a durable are not free; see the package comment. It
// remembers the sequences of their dead letters, and asks the server whether those are
// still there. Safe for concurrent use.
type blockedKeys struct {
	store *sidestream.Store

	mu sync.Mutex
	// keys are the keys that may not be free, by token. Each has the sequences of its dead
	// letters, ascending. Some may be gone; a key that is returning has none.
	keys map[string][]uint64
}

// openBlockedKeys asks the server which keys are not free.
func openBlockedKeys(ctx context.Context, c Config) (*blockedKeys, error) {
	k := &blockedKeys{store: c.Store, keys: make(map[string][]uint64)}
	all := c.Store.Address(0)
	copies, err := countSubjects(ctx, c.Store.Retries, all.KeyPattern(sidestream.Retry))
	if err != nil {
		return nil, jserr.Wrap(sidestream.RetryStream(c.Stream), "read", err)
	}
	for subject := range copies {
		if _, a, ok := sidestream.ParseSubject(subject); ok {
			k.keys[a.Key] = nil
		}
	}
	if !c.BlockKeys {
		return k, nil
	}
	dead, err := countSubjects(ctx, c.Store.DeadLetters, all.KeyPattern(sidestream.Dead))
	if err != nil {
		return nil, jserr.Wrap(sidestream.DeadStream(c.Stream), "read", err)
	}
	for subject := range dead {
		if _, a, ok := sidestream.ParseSubject(subject); ok {
			k.keys[a.Key] = append(k.keys[a.Key], a.Sequence)
		}
	}
	for _, sequences := range k.keys {
		slices.Sort(sequences)
	}
	return k, nil
}

// any reports whether any key is not free.
func (k *blockedKeys) any() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keys) > 0
}

func (k *blockedKeys) has(token string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.keys[token]
	return ok
}

// block records that d, which has a key, is a dead letter.
func (k *blockedKeys) block(d *wire.Delivery) {
	k.mu.Lock()
	defer k.mu.Unlock()
	token := sidestream.KeyToken(d.Stored.Key)
	if i, found := slices.BinarySearch(k.keys[token], d.Stored.Sequence); !found {
		k.keys[token] = slices.Insert(k.keys[token], i, d.Stored.Sequence)
	}
}

// mayRun is Log.MayRun. err says that the server did not answer.
func (k *blockedKeys) mayRun(ctx context.Context, d *wire.Delivery) (wait bool, barred, err error) {
	a := k.store.AddressOf(d)
	if !k.has(a.Key) {
		return false, nil, nil
	}
	earliest, found, err := k.earliestDeadLetter(ctx, a)
	returned := d.Stored.Source != 0 // it is one of the copies in S-retry
	switch {
	case err != nil:
		return false, nil, err
	case found && earliest < a.Sequence:
		return false, &BlockedKeyError{earliest}, nil
	case found && earliest == a.Sequence && !returned:
		return false, errDeadAlready, nil
	case returned:
		return false, nil, nil
	}
	wait, err = k.isReturning(ctx, a, found)
	return wait, nil, err
}

// earliestDeadLetter returns the sequence of the first dead letter of a's key. It looks
// whether those up to a are still there, and forgets those that are gone.
func (k *blockedKeys) earliestDeadLetter(ctx context.Context, a sidestream.Address) (sequence uint64, found bool, err error) {
	for {
		dead := a
		if dead.Sequence, found = k.firstDead(a.Key); !found || dead.Sequence > a.Sequence {
			return dead.Sequence, found, nil
		}
		_, err := k.store.DeadLetters.GetLastMsgForSubject(ctx, dead.Subject(sidestream.Dead))
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return dead.Sequence, true, err
		}
		k.forget(dead)
	}
}

// firstDead returns the lowest sequence of the dead letters that are remembered of a key.
func (k *blockedKeys) firstDead(token string) (sequence uint64, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	dead := k.keys[token]
	if len(dead) == 0 {
		return 0, false
	}
	return dead[0], true
}

// forget forgets a dead letter that is gone. Its key is not free yet: if the dead letter was
// redriven its copy is in S-retry.
func (k *blockedKeys) forget(gone sidestream.Address) {
	k.mu.Lock()
	defer k.mu.Unlock()
	dead := k.keys[gone.Key]
	if i, found := slices.BinarySearch(dead, gone.Sequence); found {
		k.keys[gone.Key] = slices.Delete(dead, i, i+1)
	}
}

// isReturning reports whether copies of a's key, not after a, are still to be handled. If
// the key has no copies, and no dead letters, it is free from now on.
func (k *blockedKeys) isReturning(ctx context.Context, a sidestream.Address, hasDead bool) (bool, error) {
	m, err := k.store.Retries.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(a.KeyPattern(sidestream.Retry)))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.keys[a.Key]) == 0 && !hasDead {
			delete(k.keys, a.Key)
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, copied, ok := sidestream.ParseSubject(m.Subject)
	return ok && copied.Sequence <= a.Sequence, nil
}
