package switchover

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"

	"github.com/nats-io/nats-server/v2/server/archive"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/wire"
)

// A large stream comes home as it goes away: most of it while publishers go on, see live. What
// differs is how the state of its consumers gets known, since a snapshot of a cluster does not
// have it: here they are rewritten twice, at the begin of the copy and at its end.

// positionsLive returns the positions at the begin of a live copy. The consumers are held, and
// what their handlers settle waits until the old servers have said what is out.
func (s *run) positionsLive(ctx context.Context, info *jetstream.StreamInfo) (map[string]*consumerState, error) {
	thaw, err := s.Home.Freeze(ctx, info.Config.Name)
	if err != nil {
		return nil, err
	}
	defer thaw()
	all, err := consumers(ctx, s.sourceJS, info.Config.Name)
	if err != nil {
		return nil, err
	}
	return s.positions(ctx, info, all, func(string, ...any) {}) // the end of the copy warns
}

// asThere returns the entry of a snapshot as the target is to get it.
func (l *live) asThere(h *archive.Header, body []byte) ([]byte, error) {
	if l.s.Home == nil {
		return body, nil
	}
	return rewriteConsumer(h, body, l.at)
}

// sameConfig reports whether a stream has the same configuration in two snapshots, the fence aside.
func (s *run) sameConfig(a, b json.RawMessage) bool {
	if s.Home == nil {
		return bytes.Equal(a, b)
	}
	x, errX := s.unfenced(a)
	y, errY := s.unfenced(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

// unfenced reads a configuration, as it was before the fence.
func (s *run) unfenced(raw json.RawMessage) (config map[string]any, err error) {
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, err
	}
	name, _ := config["name"].(string)
	metadata, _ := config["metadata"].(map[string]any)
	if metadata[wire.KeyMoved] != s.ID {
		return config, nil
	}
	var subjects []any
	was, _ := s.subjectsOf(name)
	for _, subject := range was {
		subjects = append(subjects, subject)
	}
	config["subjects"] = subjects
	if delete(metadata, wire.KeyMoved); len(metadata) == 0 {
		delete(config, "metadata")
	}
	return config, nil
}
