package switchover

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// apiReply is what a JetStream API request returns, as far as it matters here.
type apiReply struct {
	Error   *jetstream.APIError `json:"error"`
	Config  json.RawMessage     `json:"config"`
	State   json.RawMessage     `json:"state"`
	Deliver string              `json:"deliver_subject"`
}

// ask sends a request of the JetStream API. The error of the server is a *jetstream.APIError.
func ask(ctx context.Context, nc *nats.Conn, subject string, body any) (r apiReply, err error) {
	var data []byte
	if body != nil {
		if data, err = json.Marshal(body); err != nil {
			return r, err
		}
	}
	msg, err := nc.RequestWithContext(ctx, subject, data)
	if err != nil {
		return r, because(ctx, err)
	}
	return r, readReply(msg.Data, &r)
}

// readReply reads a reply of the API. An empty one is no error.
func readReply(data []byte, r *apiReply) error {
	if len(data) == 0 {
		return nil
	}
	if err := json.Unmarshal(data, r); err != nil {
		return fmt.Errorf("the reply of the server cannot be read: %w", err)
	}
	if r.Error != nil {
		return r.Error
	}
	return nil
}

// because returns the cause of ctx instead of err if ctx has ended.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// sleep waits for d, or returns why ctx has ended.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pause sleeps between two questions: the longer the answer takes, the longer. Servers that elect
// leaders have better things to do.
func pause(ctx context.Context, began time.Time) error {
	return sleep(ctx, min(max(pollPause, time.Since(began)/16), 10*pollPause))
}

// silentError is that a server lists streams of which it knows nothing else: they have no leader,
// or none that it reaches.
type silentError struct{ names []string }

func (e *silentError) Error() string { return fmt.Sprintf("no leader answers for %v", e.names) }

// streamPage is a part of the list of all streams. Missing are those whose leaders did not answer
// the server that lists them. It knows some of them all the same.
type streamPage struct {
	Error   *jetstream.APIError     `json:"error"`
	Total   int                     `json:"total"`
	Streams []*jetstream.StreamInfo `json:"streams"`
	Missing []string                `json:"missing"`
}

// unknown returns the names of the streams of which the page lacks the rest.
func (p *streamPage) unknown() []string {
	for _, info := range p.Streams {
		p.Missing = slices.DeleteFunc(p.Missing, func(name string) bool { return name == info.Config.Name })
	}
	return p.Missing
}

// streams returns all streams of a server, with their state. A server of a cluster waits 4 s for
// the leaders of the streams. If some do not answer then, the error is a *silentError, and the others
// are returned all the same. nats.go would list those streams again and again.
func streams(ctx context.Context, nc *nats.Conn) (all []*jetstream.StreamInfo, err error) {
	var silent []string
	for {
		msg, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.LIST", fmt.Appendf(nil, `{"offset":%d}`, len(all)+len(silent)))
		if err != nil {
			return nil, because(ctx, err)
		}
		var page streamPage
		if err := json.Unmarshal(msg.Data, &page); err != nil {
			return nil, fmt.Errorf("the reply of the server cannot be read: %w", err)
		}
		if page.Error != nil {
			return nil, page.Error
		}
		unknown := page.unknown()
		all, silent = append(all, page.Streams...), append(silent, unknown...)
		if n := len(page.Streams) + len(unknown); n > 0 && len(all)+len(silent) < page.Total {
			continue
		}
		if len(silent) > 0 {
			return all, &silentError{silent}
		}
		return all, nil
	}
}

// consumers returns all consumers of a stream.
func consumers(ctx context.Context, js jetstream.JetStream, stream string) (all []*jetstream.ConsumerInfo, err error) {
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, because(ctx, err)
	}
	l := st.ListConsumers(ctx)
	for info := range l.Info() {
		all = append(all, info)
	}
	return all, because(ctx, l.Err())
}

// look asks for a stream for a short time: while it has no leader, nobody answers.
func look(ctx context.Context, js jetstream.JetStream, name string) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, pollLimit)
	defer cancel()
	st, err := js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	return st.CachedInfo(), nil
}

// never is a sequence that no stream reaches.
const never = uint64(1) << 62

// answers waits until a consumer has processed all settlements that were sent to it before.
// It asks for the reply to an in-progress signal of a message that cannot exist: the consumer
// takes it in turn. It also shows that the consumer has a leader that listens.
func answers(ctx context.Context, nc *nats.Conn, stream, consumer string) error {
	subject := fmt.Sprintf("$JS.ACK.%s.%s.1.%d.%d.0.0", stream, consumer, never, never)
	if _, err := awaitAnswer(ctx, nc, subject, []byte("+WPI")); err != nil {
		return fmt.Errorf("consumer %s of stream %s does not answer: %w", consumer, stream, err)
	}
	return nil
}
