package outlet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/telemetry"
)

// Ack is what a stream answers to a stored message.
type Ack struct {
	Stream    string `json:"stream"`
	Sequence  uint64 `json:"seq"`
	Domain    string `json:"domain,omitempty"`
	Duplicate bool   `json:"duplicate,omitempty"`
}

// ErrUnknown is returned by Store when the message was sent and no answer came:
// it may be stored or not.
var ErrUnknown = errors.New("no acknowledgement came, the message may be stored or not")

const (
	// longestTry is how long an answer may take over a connection that is in order, before
	// what may be repeated is.
	attemptTimeout = 2 * time.Second
	// betweenTries is the pause after a try that found nobody or lost the
	// connection, and between looks whether that is back.
	attemptPause = 100 * time.Millisecond
)

// Store sends m to a stream and waits for its acknowledgement until ctx ends.
// A message with an ID, or an idempotent one, is sent again when the answer is lost,
// for the stream then stores it once; of others the result is ErrUnknown.
func (o *Outlet) Store(ctx context.Context, m *Message) (Ack, error) {
	if err := o.link.Enter(); err != nil {
		return Ack{}, o.count(m, err)
	}
	defer o.link.Leave()
	ctx, span := o.tel.Send(ctx, o.operation(telemetry.OpStore, m))
	o.inject(ctx, m)
	ack, err := o.store(ctx, m)
	err = o.count(m, err)
	span.End(err)
	return ack, err
}

func (o *Outlet) store(ctx context.Context, m *Message) (Ack, error) {
	var tried attempts
	for {
		ack, err := o.storeOnce(ctx, m)
		again, err := tried.decide(m, err)
		if !again {
			return ack, err
		}
		if err := o.awaitNextAttempt(ctx); err != nil {
			return Ack{}, tried.wrapUnknown(err)
		}
	}
}

// awaitTry waits until there may be another try. While there is no connection each
// would only fill the buffer for the next one.
func (o *Outlet) awaitNextAttempt(ctx context.Context) error {
	for {
		if err := sleep(ctx, attemptPause); err != nil {
			return err
		}
		if nc := o.link.Conn(); nc.IsConnected() || nc.IsClosed() {
			return nil
		}
	}
}

// oneTry returns a context that ends with ctx, and when the answer to what is sent now
// is not to be expected any more.
func (o *Outlet) attemptContext(ctx context.Context) (_ context.Context, end func()) {
	ctx, connected := o.link.WhileConnected(ctx)
	ctx, cancel := context.WithTimeout(ctx, o.attemptTimeout)
	return ctx, func() {
		cancel()
		connected()
	}
}

// try sends m once. What may be repeated waits for its answer no longer than one try may.
func (o *Outlet) storeOnce(ctx context.Context, m *Message) (Ack, error) {
	if m.isRepeatable() {
		var end func()
		ctx, end = o.attemptContext(ctx)
		defer end()
	}
	reply, err := o.request(ctx, m)
	if err != nil {
		return Ack{}, err
	}
	return parseAck(reply)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() // even if both: a try that is not made must not count as lost
}

func parseAck(reply *nats.Msg) (Ack, error) {
	if ack, ok := parseCommonAck(reply.Data); ok {
		return ack, nil
	}
	var r struct {
		Error *jserr.Refusal `json:"error"`
		Ack
	}
	if err := json.Unmarshal(reply.Data, &r); err != nil {
		return Ack{}, fmt.Errorf("not an acknowledgement of a stream: %w", err)
	}
	if r.Error != nil {
		return Ack{}, r.Error
	}
	if r.Stream == "" {
		return Ack{}, errors.New("not an acknowledgement of a stream: it names none")
	}
	return r.Ack, nil
}

// usualAck reads an acknowledgement that is written as servers write nearly all of
// them, which costs a tenth of what reading any JSON does:
//
//	{"stream":"ORDERS","domain":"d","seq":17}
func parseCommonAck(text []byte) (ack Ack, ok bool) {
	if text, ok = cutQuoted(text, `{"stream":"`, &ack.Stream); !ok || ack.Stream == "" {
		return Ack{}, false
	}
	if after, has := cutQuoted(text, `,"domain":"`, &ack.Domain); has {
		text = after
	}
	text, ok = bytes.CutPrefix(text, []byte(`,`))
	text, _ = bytes.CutPrefix(text, []byte(` `))
	text, hasSequence := bytes.CutPrefix(text, []byte(`"seq":`))
	text, ends := bytes.CutSuffix(text, []byte(`}`))
	if !ok || !hasSequence || !ends {
		return Ack{}, false
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	ack.Sequence = n
	return ack, err == nil
}

// quoted reads a string that begins after start and has nothing to unescape.
func cutQuoted(text []byte, start string, into *string) (after []byte, ok bool) {
	value, ok := bytes.CutPrefix(text, []byte(start))
	end := bytes.IndexByte(value, '"')
	if !ok || end < 0 || bytes.IndexByte(value[:end], '\\') >= 0 {
		return text, false
	}
	*into = string(value[:end])
	return value[end+1:], true
}
