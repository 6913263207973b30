package reader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/wire"
)

// retryPause is the pause before a request is repeated.
const retryPause = 100 * time.Millisecond

// requestJSON sends a request to the API of the server and reads the answer into into.
func (r *Reader) requestJSON(ctx context.Context, subject string, body []byte, into any) error {
	m, err := r.requestReply(ctx, subject, body)
	if err != nil {
		return err
	}
	return parseJSON(m.Data, into)
}

// requestReply sends a request and repeats it until there is an answer.
func (r *Reader) requestReply(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
	for since := time.Now(); ; {
		m, err := r.requestOnce(ctx, &wire.Out{Subject: subject, Data: body})
		if err == nil || !isTemporary(err) {
			return m, err
		}
		if why := r.checkRetry(ctx, since); why != nil {
			return nil, fmt.Errorf("%w: %w", why, err)
		}
		if err := r.Pause(ctx, retryPause); err != nil {
			return nil, err
		}
	}
}

// requestOnce sends a request once.
func (r *Reader) requestOnce(ctx context.Context, o *wire.Out) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return r.link.Request(ctx, o)
}

// isTemporary reports whether a repeated request may succeed after err.
func isTemporary(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrDisconnected) || errors.Is(err, link.ErrDisconnected) ||
		errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// Pause waits for d. It returns an error if reading must end.
func (r *Reader) Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return r.checkEnded(ctx)
	case <-r.cfg.Ended:
		return link.ErrShut
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// parseJSON reads an answer of the API of the server. It returns the error that the answer has,
// if it has one.
func parseJSON(data []byte, into any) error {
	var refused struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &refused); err != nil {
		return fmt.Errorf("not an answer of the server: %w", err)
	}
	if refused.Error != nil {
		return refused.Error
	}
	return json.Unmarshal(data, into)
}
