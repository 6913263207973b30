package switchover

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A cluster assigns the name of a stream when a restore begins. Until the stream has got a message,
// and when the restore has failed, nobody answers for it, or says that there is none. It has the name
// all the same, until it is deleted.

const (
	silentAfter = time.Second // without an answer, then a copy of this switch has no leader
	deleteLimit = time.Second // the deletion of a stream without a leader is not confirmed
)

// owns records that the target has assigned a name to a restore of this switch, unless err is its
// refusal.
func (s *run) owns(name string, err error) {
	if _, refused := errors.AsType[*jetstream.APIError](err); refused {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.own, name) {
		s.own = append(s.own, name)
	}
}

// disown undoes owns: the name is free for others.
func (s *run) disown(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own = slices.DeleteFunc(s.own, func(o string) bool { return o == name })
}

func (s *run) isOwn(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.own, name)
}

// removeOwn deletes a copy of this switch, also one that nobody answers for.
func (s *run) removeOwn(ctx context.Context, name string) error {
	if !s.isOwn(name) {
		return removeCopy(ctx, s.targetJS, name, s.ID)
	}
	if s.removeOpened(ctx, name) {
		return nil
	}
	for began := time.Now(); ; {
		info, err := look(ctx, s.targetJS, name)
		if err == nil && info.Config.Metadata[keyMark] != s.ID {
			return nil // somebody else's
		}
		if (err == nil || errors.Is(err, jetstream.ErrStreamNotFound) || time.Since(began) > silentAfter) && s.deleteOwn(ctx, name) {
			return nil
		}
		if err := sleep(ctx, 10*pollPause); err != nil {
			return err
		}
	}
}

// deleteOwn deletes a stream that is a copy of this switch. It reports whether it is gone.
func (s *run) deleteOwn(ctx context.Context, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, deleteLimit)
	defer cancel()
	if err := s.targetJS.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return false
	}
	s.disown(name)
	return true
}
