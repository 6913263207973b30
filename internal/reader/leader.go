package reader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/serverversion"
	"github.com/omnibus-go/bus/internal/wire"
)

// SetEnd sets the end to the last message that the stream has now. It fails if the stream was
// deleted and created again since the first SetEnd.
func (r *Reader) SetEnd(ctx context.Context) error {
	var reply struct {
		Created time.Time `json:"created"`
		Config  struct {
			AllowDirect bool              `json:"allow_direct"`
			Replicas    int               `json:"num_replicas"`
			Metadata    map[string]string `json:"metadata"`
		} `json:"config"`
		State struct {
			First uint64 `json:"first_seq"`
			Last  uint64 `json:"last_seq"`
		} `json:"state"`
	}
	if err := r.requestJSON(ctx, "$JS.API.STREAM.INFO."+r.cfg.Stream, nil, &reply); err != nil {
		return err
	}
	incarnation := wire.Incarnation(reply.Config.Metadata, reply.Created)
	if r.incarnation == "" {
		r.incarnation = incarnation
	}
	if r.incarnation != incarnation {
		return fmt.Errorf("%w: it was deleted and created again", jetstream.ErrStreamNotFound)
	}
	r.direct = reply.Config.AllowDirect && r.link.Server().Has(serverversion.BatchedReads)
	r.replicated = reply.Config.Replicas > 1
	r.first, r.last = reply.State.First, reply.State.Last
	return nil
}

// fetchOne fetches the next message from the leader. If there is none it fetches nothing.
func (r *Reader) fetchOne(ctx context.Context) error {
	body, err := r.requestBody(0, 0)
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
	err = r.requestJSON(ctx, "$JS.API.STREAM.MSG.GET."+r.cfg.Stream, body, &reply)
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

// One returns the next message from the leader, also after the end. ok is false if there is
// none.
func (r *Reader) One(ctx context.Context) (d wire.Delivery, ok bool, err error) {
	r.ready = r.buffer[:0]
	if err := r.fetchOne(ctx); err != nil || len(r.ready) == 0 {
		return wire.Delivery{}, false, err
	}
	d, r.ready = r.ready[0], nil
	return d, true, nil
}
