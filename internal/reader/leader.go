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

// Look makes the last message that the stream has now the end. It fails where the
// stream is not the one it was when Look was first called.
func (r *Reader) Look(ctx context.Context) error {
	var reply struct {
		Created time.Time `json:"created"`
		Config  struct {
			AllowDirect bool `json:"allow_direct"`
		} `json:"config"`
		State struct {
			First uint64 `json:"first_seq"`
			Last  uint64 `json:"last_seq"`
		} `json:"state"`
	}
	if err := r.api(ctx, "$JS.API.STREAM.INFO."+r.cfg.Stream, nil, &reply); err != nil {
		return err
	}
	if r.created.IsZero() {
		r.created = reply.Created
	}
	if !r.created.Equal(reply.Created) {
		return fmt.Errorf("%w any more: it was deleted and made anew", jetstream.ErrStreamNotFound)
	}
	r.direct, r.first, r.last = reply.Config.AllowDirect, reply.State.First, reply.State.Last
	return nil
}

// fetchOne asks the leader for the next message. There may be none.
func (r *Reader) fetchOne(ctx context.Context) error {
	body, err := r.request(0, 0)
	if err != nil {
		return err
	}
	var reply struct {
		Message struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	err = r.api(ctx, "$JS.API.STREAM.MSG.GET."+r.cfg.Stream, body, &reply)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		r.next = max(r.next, r.last+1)
		return nil
	}
	if err != nil {
		return err
	}
	m := &reply.Message
	d := wire.Delivery{In: wire.In{Subject: m.Subject, Data: m.Data},
		Stored: &wire.Stored{Attempt: 1, Stream: r.cfg.Stream, Sequence: m.Sequence, Time: m.Time}}
	if len(m.Header) > 0 {
		h, err := nats.DecodeHeadersMsg(m.Header)
		if err != nil {
			return err
		}
		d.Header = wire.Header(h)
	}
	r.add(d)
	return nil
}

// One returns the first message from where the reader is, as the leader has it, also
// beyond the end. ok is false when there is none.
func (r *Reader) One(ctx context.Context) (d wire.Delivery, ok bool, err error) {
	r.ready = r.buffer[:0]
	if err := r.fetchOne(ctx); err != nil || len(r.ready) == 0 {
		return wire.Delivery{}, false, err
	}
	d, r.ready = r.ready[0], nil
	return d, true, nil
}

// betweenTries is the pause before a request is repeated.
const betweenTries = 100 * time.Millisecond

// api asks the server for a JSON answer.
func (r *Reader) api(ctx context.Context, subject string, body []byte, into any) error {
	m, err := r.answer(ctx, subject, body)
	if err != nil {
		return err
	}
	return parse(m.Data, into)
}

// answer asks the server, and again while no answer comes.
func (r *Reader) answer(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
	for heard := time.Now(); ; {
		m, err := r.try(ctx, &wire.Out{Subject: subject, Data: body})
		if err == nil || !passing(err) {
			return m, err
		}
		if why := r.lost(ctx, heard); why != nil {
			return nil, fmt.Errorf("%w: %w", why, err)
		}
		if err := r.Pause(ctx, betweenTries); err != nil {
			return nil, err
		}
	}
}

func (r *Reader) try(ctx context.Context, o *wire.Out) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, oneTry)
	defer cancel()
	return r.link.Request(ctx, o)
}

// passing reports whether err may be over with the next try.
func passing(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrDisconnected) || errors.Is(err, link.ErrDisconnected) ||
		errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// Pause waits for d, unless reading must end before.
func (r *Reader) Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return r.mayGoOn(ctx)
	case <-r.cfg.Ended:
		return link.ErrShut
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// parse reads an answer of the server's API, which may be an error.
func parse(data []byte, into any) error {
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
