package switchover

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/link"
)

// Mark returns what the metadata of the copies of a move say until they count.
func Mark(id string) string { return keyMark + "=" + id }

// failing calls do for all names at the same time, and returns those for which it fails, sorted. err is
// why one of them failed: what a server says of one says more than that another did not answer.
func failing(names []string, do func(name string) error) (left []string, err error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, name := range names {
		all.Go(func() { // ends with do
			failed := do(name)
			mu.Lock()
			defer mu.Unlock()
			if failed != nil {
				left = append(left, name)
			}
			if err == nil || failed != nil && errors.Is(err, context.DeadlineExceeded) {
				err = failed
			}
		})
	}
	all.Wait()
	slices.Sort(left)
	return left, err
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
// It returns the streams that still have it, and why one of them has.
func RemoveMarks(ctx context.Context, js jetstream.JetStream, names []string, id string) (left []string, err error) {
	return failing(names, func(name string) error { return removeMark(ctx, js, name, id) })
}

// removeMark removes a mark, unless the stream does not have it. It fails when ctx ends first.
func removeMark(ctx context.Context, js jetstream.JetStream, name, id string) error {
	_, err := updateMarked(ctx, js, name, keyMark, id, func(c *jetstream.StreamConfig) { delete(c.Metadata, keyMark) })
	return err
}

// updateMarked changes a stream, unless it does not have the mark key with the value id. It tries
// again, and fails when ctx ends first, or the user may not do it. The error is what the server has
// said last. found is false if there is no such stream: somebody has deleted it since it was marked.
func updateMarked(ctx context.Context, js jetstream.JetStream, name, key, id string, change func(*jetstream.StreamConfig)) (found bool, err error) {
	before := js.Conn().LastError()
	var said error
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
		if refused := refusedSince(js.Conn(), before, name); refused != nil {
			return false, refused
		}
		if _, answered := errors.AsType[*jetstream.APIError](err); answered {
			said = err
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return false, cmp.Or(said, err)
		}
	}
}

// refusedSince returns the refusal of a question about a stream, if that is the last error of a
// connection and not the one of before. Whoever waits for the answer does not get to know it.
func refusedSince(nc *nats.Conn, before error, stream string) error {
	last := nc.LastError()
	if refused := link.Refused(last); last != before && refused != nil && refused.Publish && strings.HasSuffix(refused.Subject, "."+stream) { //nolint:errorlint // each refusal is an error of its own
		return refused
	}
	return nil
}
