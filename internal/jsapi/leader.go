package jsapi

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
)

// ask waits for an answer for firstAnswer, then for twice as long each time, up to
// longestAnswer. After a refusal it waits for leaderPause.
const (
	firstAnswer   = 250 * time.Millisecond
	longestAnswer = 2 * time.Second
	leaderPause   = 100 * time.Millisecond
)

// ErrNoLeader is in the error of a request that a cluster did not answer in time.
var ErrNoLeader = errors.New("the cluster did not answer: it or the stream has no leader")

// ask makes a request that changes nothing when it is made a second time. A cluster that has no
// leader, because it starts or because a node stopped, does not answer at all, or says that it
// is not available. Then ask makes the request again, until ctx ends. Without a cluster it makes
// it once.
func ask[T any](ctx context.Context, c *client, request string, f func(context.Context) (T, error)) (T, error) {
	if !c.link.Clustered() {
		return call(ctx, c.link, request, f)
	}
	var refusal error // the latest one
	for wait := firstAnswer; ; wait = min(2*wait, longestAnswer) {
		limited, cancel := context.WithTimeout(ctx, wait)
		answer, err := call(limited, c.link, request, f)
		cancel()
		switch {
		case err != nil && ctx.Err() != nil:
			if refusal == nil && errors.Is(err, context.DeadlineExceeded) {
				refusal = ErrNoLeader
			}
			return answer, errors.Join(err, refusal)
		case errors.Is(err, context.DeadlineExceeded):
		case c.isElecting(err):
			refusal = err
			select {
			case <-time.After(leaderPause):
			case <-ctx.Done():
			}
		default:
			return answer, err
		}
	}
}

// isElecting reports whether err says that the cluster has no leader yet, or does not know all
// of its nodes yet.
func (c *client) isElecting(err error) bool {
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (refused.ErrorCode == jserr.ClusterNotAvailable || refused.ErrorCode == jserr.ClusterNoPeers && c.node)
}
