package switchover

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Mark returns what the metadata of the copies of a move say until they count.
func Mark(id string) string { return keyMark + "=" + id }

// removeCopies deletes the copies with a mark at the target, and returns those that it could
// not delete, sorted.
func removeCopies(ctx context.Context, js jetstream.JetStream, names []string, mark string) (left []string) {
	return failing(names, func(name string) error { return removeCopy(ctx, js, name, mark) })
}

// failing calls do for all names at the same time, and returns those for which it fails, sorted.
func failing(names []string, do func(name string) error) (left []string) {
	results := make(chan string, len(names))
	for _, name := range names {
		go func() { // ends with do
			if do(name) == nil {
				name = ""
			}
			results <- name
		}()
	}
	for range names {
		if name := <-results; name != "" {
			left = append(left, name)
		}
	}
	slices.Sort(left)
	return left
}

// removeCopy deletes a copy with a mark.
func removeCopy(ctx context.Context, js jetstream.JetStream, name, mark string) error {
	return removeIfMarked(ctx, js, name, keyMark, mark)
}

// removeIfMarked deletes a stream if it has the mark. It looks again for a while if the stream
// does not answer: it may have no leader yet.
func removeIfMarked(ctx context.Context, js jetstream.JetStream, name, key, mark string) error {
	for {
		info, err := look(ctx, js, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return nil
		case err == nil && info.Config.Metadata[key] != mark:
			return nil // somebody else's
		case err == nil:
			if err = js.DeleteStream(ctx, name); err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
				return nil
			}
		}
		if err := sleep(ctx, 10*pollPause); err != nil {
			return err
		}
	}
}

// RemoveMarks removes the mark of a committed move from its streams. It may be called again.
// It returns the streams that still have it.
func RemoveMarks(ctx context.Context, js jetstream.JetStream, names []string, id string) (left []string) {
	return failing(names, func(name string) error { return removeMark(ctx, js, name, id) })
}

// removeMark removes a mark, unless the stream does not have it. It fails when ctx ends first.
func removeMark(ctx context.Context, js jetstream.JetStream, name, id string) error {
	_, err := updateMarked(ctx, js, name, keyMark, id, func(c *jetstream.StreamConfig) { delete(c.Metadata, keyMark) })
	return err
}

// updateMarked changes a stream, unless it does not have the mark key with the value id. It tries
// again, and fails when ctx ends first. found is false if there is no such stream: somebody has
// deleted it since it was marked.
func updateMarked(ctx context.Context, js jetstream.JetStream, name, key, id string, change func(*jetstream.StreamConfig)) (found bool, err error) {
	for {
		info, err := look(ctx, js, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return false, nil
		case err == nil && info.Config.Metadata[key] != id:
			return true, nil
		case err == nil:
			config := info.Config
			change(&config)
			limited, cancel := context.WithTimeout(ctx, updateLimit)
			_, err = js.UpdateStream(limited, config)
			cancel()
			if err == nil {
				return true, nil
			}
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return false, err
		}
	}
}
