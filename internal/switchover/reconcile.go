package switchover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server/archive"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What the target has after a live restore is as old as the beginning of the copy, but for
// messages that were stored since. Here it learns what else has happened: settlements first,
// since they remove messages of some streams, then removed messages.

// errChanged is why a copy that was made while publishers went on cannot be brought up to date.
type errChanged struct{ what string }

func (e *errChanged) Error() string { return e.what + " since the copy began" }

// consumersNow returns the consumers of the stream as they are. Only a snapshot has
// everything that is unacknowledged, so one is begun and left.
func (l *live) consumersNow(ctx context.Context) (map[string]consumerAtStart, error) {
	c, err := l.s.newCopier(l.name)
	if err != nil {
		return nil, err
	}
	defer c.close()
	reply, err := c.snapshot(ctx, chunkSize/4)
	if err != nil {
		return nil, err
	}
	if !l.s.sameConfig(reply.Config, l.config) {
		return nil, &errChanged{"the configuration of the stream has changed"}
	}
	from := archive.NewReader(s2.NewReader(&snapshotReader{ctx: ctx, c: c}))
	all := make(map[string]consumerAtStart)
	var body []byte
	for {
		h, err := from.Next()
		if err != nil {
			return nil, fmt.Errorf("the snapshot: %w", err)
		}
		if h.Sequence > 0 || isEnd(h) { // consumers come first
			return all, nil
		}
		if body, err = readBody(from, h, body); err != nil {
			return nil, fmt.Errorf("the snapshot: %w", err)
		}
		if body, err = l.asThere(h, body); err != nil {
			return nil, err
		}
		if err := noteConsumer(all, h, body); err != nil {
			return nil, err
		}
	}
}

// settle has the consumers at the target be as they are now here. They took nothing since
// they were held, but handlers have gone on and settled.
func (l *live) settle(ctx context.Context, now map[string]consumerAtStart) error {
	if len(now) != len(l.before) {
		return &errChanged{"consumers have come or gone"}
	}
	return each(slices.Collect(maps.Keys(now)), func(name string) error {
		n := now[name]
		b, there := l.before[name]
		if !there || !bytes.Equal(b.config, n.config) {
			return &errChanged{fmt.Sprintf("consumer %s is new or has another configuration", name)}
		}
		return l.settleConsumer(ctx, name, &b.state, &n.state, n.config)
	})
}

// settleConsumer settles at the target what was settled here, and has the target wait for the
// rest for as long as the server here would.
func (l *live) settleConsumer(ctx context.Context, name string, before, now *consumerState, config json.RawMessage) error {
	if before.Delivered != now.Delivered || !maps.Equal(redelivered(before, now), redelivered(now, now)) {
		return &errChanged{fmt.Sprintf("consumer %s has got messages that no consumer of this bus holds back", name)}
	}
	var c struct {
		AckPolicy jetstream.AckPolicy `json:"ack_policy"`
		AckWait   time.Duration       `json:"ack_wait"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	changed := slices.DeleteFunc(slices.Sorted(maps.Keys(before.Pending)), func(seq uint64) bool {
		return now.Pending[seq] != nil && now.Pending[seq].Timestamp == before.Pending[seq].Timestamp
	})
	if c.AckPolicy == jetstream.AckNonePolicy || len(changed) == 0 {
		return nil
	}
	if err := answers(ctx, l.s.Target, l.name, name); err != nil {
		return err
	}
	return l.withAsker(ctx, func(a *asker) error {
		for _, seq := range changed {
			body := []byte("+ACK")
			if is := now.Pending[seq]; is != nil { // the server has heard of it, or was told when to send it again
				left := time.Until(time.Unix(0, is.Timestamp).Add(c.AckWait))
				body = fmt.Appendf(nil, `-NAK {"delay": %d}`, left)
			}
			subject := fmt.Sprintf("$JS.ACK.%s.%s.%d.%d.%d.0.0", l.name, name, now.Redelivered[seq]+1, seq, before.Pending[seq].Sequence)
			if err := a.send(ctx, subject, body); err != nil {
				return err
			}
		}
		return nil
	})
}

// redelivered returns how often the messages that are pending in now were sent again, as s
// has it.
func redelivered(s, now *consumerState) map[uint64]uint64 {
	all := make(map[uint64]uint64)
	for seq := range now.Pending {
		if n := s.Redelivered[seq]; n > 0 {
			all[seq] = n
		}
	}
	return all
}

// asker sends requests to the target ahead of the replies.
type asker struct {
	nc      *nats.Conn
	inbox   string
	replies chan *nats.Msg
	out     int
	failed  error // the first refusal
}

// maxUnanswered is how many requests of an asker have no reply yet, at most.
const maxUnanswered = 256

// withAsker calls do with an asker, and returns when all requests have their replies.
func (l *live) withAsker(ctx context.Context, do func(*asker) error) error {
	a := &asker{nc: l.s.Target, inbox: l.s.Target.NewInbox(), replies: make(chan *nats.Msg, maxUnanswered)}
	sub, err := a.nc.ChanSubscribe(a.inbox, a.replies)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := do(a); err != nil {
		return err
	}
	if err := a.await(ctx, 0); err != nil {
		return err
	}
	return a.failed
}

func (a *asker) send(ctx context.Context, subject string, body []byte) error {
	if err := a.nc.PublishRequest(subject, a.inbox, body); err != nil {
		return err
	}
	a.out++
	return a.await(ctx, maxUnanswered-1)
}

// await waits until at most so many requests have no reply.
func (a *asker) await(ctx context.Context, most int) error {
	for a.out > most {
		select {
		case m := <-a.replies:
			a.out--
			if a.failed == nil {
				a.failed = refusal(m)
			}
		case <-time.After(livePatience):
			return errSilentTarget
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// refusal returns the error that a reply reports.
func refusal(m *nats.Msg) error {
	if m.Header.Get("Status") == "503" {
		return nats.ErrNoResponders
	}
	return readReply(m.Data, new(apiReply))
}

// maxRemoved is how many single messages are deleted at the target, at most. It takes about
// 100 ms.
const maxRemoved = 10_000

// removeDeleted removes at the target what was removed here since the copy began: first what
// is before the first message here, then single messages.
func (l *live) removeDeleted(ctx context.Context, here *jetstream.StreamInfo) error {
	there, err := l.there(ctx, here)
	if err != nil || same(there, here) {
		return err
	}
	if there.State.FirstSeq < here.State.FirstSeq {
		if _, err := ask(ctx, l.s.Target, "$JS.API.STREAM.PURGE."+l.name, map[string]any{"seq": here.State.FirstSeq}); err != nil {
			return fmt.Errorf("messages that were removed since the copy began: %w", err)
		}
		if there, err = l.there(ctx, here); err != nil || same(there, here) {
			return err
		}
	}
	if err := l.removeSingle(ctx); err != nil {
		return err
	}
	if there, err = l.there(ctx, here); err != nil || same(there, here) || l.s.isVolatile(here) {
		return err
	}
	return &errChanged{fmt.Sprintf("the stream has %d messages and its copy %d; messages have been removed", here.State.Msgs, there.State.Msgs)}
}

func same(a, b *jetstream.StreamInfo) bool {
	return a.State.Msgs == b.State.Msgs && (a.State.Msgs == 0 || a.State.FirstSeq == b.State.FirstSeq)
}

// there returns the copy. It waits a little for the same number of messages: the target
// removes some that were settled after it has confirmed that.
func (l *live) there(ctx context.Context, here *jetstream.StreamInfo) (*jetstream.StreamInfo, error) {
	for began := time.Now(); ; {
		there, err := awaitStream(ctx, l.s.Target, l.name)
		if err == nil && (same(there, here) || time.Since(began) > removalGrace || there.State.FirstSeq < here.State.FirstSeq) {
			return there, nil
		}
		if err := sleep(ctx, pollPause); err != nil {
			return nil, err
		}
	}
}

// removalGrace is how long a settled message may take to go.
const removalGrace = 30 * time.Millisecond

// removeSingle deletes at the target each message that the stream does not have any more.
func (l *live) removeSingle(ctx context.Context) error {
	here, err := deleted(ctx, l.s.sourceJS, l.name)
	if err != nil {
		return err
	}
	there, err := deleted(ctx, l.s.targetJS, l.name)
	if err != nil {
		return err
	}
	for seq := range there {
		delete(here, seq)
	}
	if len(here) > maxRemoved {
		return &errChanged{fmt.Sprintf("%d single messages have been removed", len(here))}
	}
	err = l.withAsker(ctx, func(a *asker) error {
		for seq := range here {
			if err := a.send(ctx, "$JS.API.STREAM.MSG.DELETE."+l.name, fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, seq)); err != nil {
				return err
			}
		}
		return nil
	})
	if _, refused := errors.AsType[*jetstream.APIError](err); refused {
		return nil // it may have gone by itself; the caller counts what is left
	}
	return err
}

// deleted returns the sequences between the first and the last message that a stream does not have.
func deleted(ctx context.Context, js jetstream.JetStream, name string) (map[uint64]bool, error) {
	st, err := js.Stream(ctx, name)
	if err != nil {
		return nil, because(ctx, err)
	}
	info, err := st.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return nil, because(ctx, err)
	}
	all := make(map[uint64]bool, len(info.State.Deleted))
	for _, seq := range info.State.Deleted {
		all[seq] = true
	}
	return all, nil
}
