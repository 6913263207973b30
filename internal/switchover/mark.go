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
	for _, name := range names {
		if err := removeCopy(ctx, js, name, mark); err != nil {
			left = append(left, name)
		}
	}
	slices.Sort(left)
	return left
}

// removeCopy deletes a stream if it has the mark. It looks again for a while if the stream
// does not answer: it may have no leader yet.
func removeCopy(ctx context.Context, js jetstream.JetStream, name, mark string) error {
	for {
		info, err := look(ctx, js, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return nil
		case err == nil && info.Config.Metadata[keyMark] != mark:
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
	results := make(chan string, len(names))
	for _, name := range names {
		go func() { results <- removeMark(ctx, js, name, id) }()
	}
	for range names {
		if name := <-results; name != "" {
			left = append(left, name)
		}
	}
	slices.Sort(left)
	return left
}

// removeMark removes a mark. It returns the name of the stream if it could not.
func removeMark(ctx context.Context, js jetstream.JetStream, name, id string) string {
	for {
		info, err := look(ctx, js, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return "" // somebody has deleted it since
		case err == nil && info.Config.Metadata[keyMark] != id:
			return ""
		case err == nil:
			config := info.Config
			delete(config.Metadata, keyMark)
			if _, err = js.UpdateStream(ctx, config); err == nil {
				return ""
			}
		}
		if sleep(ctx, 10*time.Millisecond) != nil {
			return name
		}
	}
}
