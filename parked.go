package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// parked knows the keys of a durable of which something lies beside the stream. Which
// messages that is it remembers, and what has become of them it asks.
type parked struct {
	side *sidestream.Store
	park bool // keys with letters are parked

	mu   sync.Mutex
	keys map[string]*parkedKey // by token
}

type parkedKey struct {
	letters   []uint64 // their sequences, ascending; some may be gone
	returning bool     // there may be copies in S-retry
}

// openParked asks which keys have something beside the stream.
func openParked(ctx context.Context, side *sidestream.Store, stream string, park bool) (*parked, error) {
	k := &parked{side: side, park: park, keys: make(map[string]*parkedKey)}
	copies, err := subjectsOf(ctx, side.Retries, side.Address(0).KeyPattern(sidestream.Retry))
	if err != nil {
		return nil, streamError(sidestream.RetryStream(stream), "read", err)
	}
	for subject := range copies {
		if _, p, ok := sidestream.ParseSubject(subject); ok {
			k.keyLocked(p.Key).returning = true
		}
	}
	if !park {
		return k, nil
	}
	letters, err := subjectsOf(ctx, side.DeadLetters, side.Address(0).KeyPattern(sidestream.Dead))
	if err != nil {
		return nil, streamError(sidestream.DeadStream(stream), "read", err)
	}
	for subject := range letters {
		if _, p, ok := sidestream.ParseSubject(subject); ok {
			key := k.keyLocked(p.Key)
			key.letters = append(key.letters, p.Sequence)
		}
	}
	for _, key := range k.keys {
		slices.Sort(key.letters)
	}
	return k, nil
}

func (k *parked) keyLocked(token string) *parkedKey {
	key := k.keys[token]
	if key == nil {
		key = new(parkedKey)
		k.keys[token] = key
	}
	return key
}

// any is whether there is any such key.
func (k *parked) any() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keys) > 0
}

// buried notes that d is a letter now.
func (k *parked) buried(d *wire.Delivery) {
	if k == nil || !k.park || d.Stored.Key == "" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key := k.keyLocked(sidestream.KeyToken(d.Stored.Key))
	if at, there := slices.BinarySearch(key.letters, d.Stored.Sequence); !there {
		key.letters = slices.Insert(key.letters, at, d.Stored.Sequence)
	}
}

// admit returns what is in d's way: a letter of its key that was before it, or copies
// that come back first.
func (k *parked) admit(ctx context.Context, d *wire.Delivery) (wait bool, barred, err error) {
	p := k.side.AddressOf(d)
	if !k.knows(p.Key) {
		return false, nil, nil
	}
	lowest, found, err := k.lowestLetter(ctx, p)
	switch {
	case err != nil:
		return false, nil, err
	case found && lowest < p.Sequence:
		return false, &behind{lowest}, nil
	case found && lowest == p.Sequence && d.Stored.Source == 0:
		return false, errDeadAlready, nil
	case d.Stored.Source != 0: // it is one of those that come back
		return false, nil, nil
	}
	wait, err = k.isReturning(ctx, p, found)
	return wait, nil, err
}

func (k *parked) knows(token string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[token] != nil
}

// lowestLetter returns the sequence of the first letter of p's key, of those not after
// p. It forgets those that are gone.
func (k *parked) lowestLetter(ctx context.Context, p sidestream.Address) (sequence uint64, found bool, err error) {
	for {
		letter := p
		k.mu.Lock()
		key := k.keys[p.Key]
		if key == nil || len(key.letters) == 0 {
			k.mu.Unlock()
			return 0, false, nil
		}
		letter.Sequence = key.letters[0]
		k.mu.Unlock()
		if letter.Sequence > p.Sequence {
			return letter.Sequence, true, nil
		}
		_, err := k.side.DeadLetters.GetLastMsgForSubject(ctx, letter.Subject(sidestream.Dead))
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return letter.Sequence, true, err
		}
		k.gone(letter)
	}
}

// gone forgets a letter. Where it was given back, its copy comes.
func (k *parked) gone(letter sidestream.Address) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key := k.keys[letter.Key]; key != nil {
		key.returning = true
		if at, there := slices.BinarySearch(key.letters, letter.Sequence); there {
			key.letters = slices.Delete(key.letters, at, at+1)
		}
	}
}

// isReturning is whether copies of p's key, not after p, are still to be handled.
// When there are none, nor letters, the key is free.
func (k *parked) isReturning(ctx context.Context, p sidestream.Address, letters bool) (bool, error) {
	m, err := k.side.Retries.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(p.KeyPattern(sidestream.Retry)))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if key := k.keys[p.Key]; key != nil && len(key.letters) == 0 && !letters {
			delete(k.keys, p.Key)
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, copied, ok := sidestream.ParseSubject(m.Subject)
	return ok && copied.Sequence <= p.Sequence, nil
}

// behind is why a message is given up whose key has a dead letter.
type behind struct{ sequence uint64 }

func (e *behind) Error() string {
	return fmt.Sprintf("bus: message %d of its key, which was before it, is a dead letter", e.sequence)
}

// errDeadAlready is why a message is not handled of which there is a dead letter.
var errDeadAlready = errors.New("bus: it became a dead letter before the process ended")
