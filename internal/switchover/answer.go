package switchover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// While a stream or a consumer has no leader nobody answers for it, so a question must be repeated. An
// answer may also be late: the servers of a cluster send it on the connection on which they send each
// other what was copied, and so it waits for some megabytes. So an answer to any of the questions counts.

// awaitAnswer sends a request again and again until there is an answer to one of them.
func awaitAnswer(ctx context.Context, nc *nats.Conn, subject string, body []byte) (*nats.Msg, error) {
	inbox, answers := nc.NewInbox(), make(chan *nats.Msg, 64)
	sub, err := nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	for began := time.Now(); ; {
		if err := nc.PublishRequest(subject, inbox, body); err != nil {
			return nil, err
		}
		select {
		case m := <-answers:
			if m.Header.Get("Status") != "503" {
				return m, nil
			}
			if err := pause(ctx, began); err != nil {
				return nil, err
			}
		case <-time.After(pollLimit):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// awaitInfo asks the API until there is an answer, and reads it into info. An error of the server is a
// *jetstream.APIError.
func awaitInfo(ctx context.Context, nc *nats.Conn, subject string, info any) error {
	m, err := awaitAnswer(ctx, nc, subject, nil)
	if err != nil {
		return err
	}
	if err := readReply(m.Data, new(apiReply)); err != nil {
		return err
	}
	if err := json.Unmarshal(m.Data, info); err != nil {
		return fmt.Errorf("the reply of the server cannot be read: %w", err)
	}
	return nil
}

// awaitStream asks for a stream until there is an answer. The error is jetstream.ErrStreamNotFound if
// there is no such stream.
func awaitStream(ctx context.Context, nc *nats.Conn, name string) (*jetstream.StreamInfo, error) {
	info := new(jetstream.StreamInfo)
	err := awaitInfo(ctx, nc, "$JS.API.STREAM.INFO."+name, info)
	if e, is := errors.AsType[*jetstream.APIError](err); is && e.ErrorCode == jetstream.JSErrCodeStreamNotFound {
		err = jetstream.ErrStreamNotFound
	}
	if err != nil {
		return nil, err
	}
	return info, nil
}

// awaitConsumer asks for a consumer until there is an answer.
func awaitConsumer(ctx context.Context, nc *nats.Conn, stream, name string) (*jetstream.ConsumerInfo, error) {
	info := new(jetstream.ConsumerInfo)
	if err := awaitInfo(ctx, nc, "$JS.API.CONSUMER.INFO."+stream+"."+name, info); err != nil {
		return nil, err
	}
	return info, nil
}
