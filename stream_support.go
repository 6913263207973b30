package bus

import (
	"context"
	"errors"
	"regexp"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/omnibus-go/bus/internal/jserr"
)

// supports asks the server whether it knows the fields, where that is not certain.
func (b *Bus) supports(ctx context.Context, js *jetstream.StreamConfig, fields []*field) error {
	e := &UnsupportedError{Stream: js.Name}
	for _, f := range fields {
		e.Level = max(e.Level, f.level)
	}
	if e.Level == 0 {
		return nil
	}
	level, err := b.apiLevel(ctx, js)
	if err != nil {
		return err
	}
	for _, f := range fields {
		if f.level > level {
			e.Fields = append(e.Fields, f.name)
		}
	}
	if e.Have = level; len(e.Fields) > 0 {
		return e
	}
	return nil
}

// apiLevel is what the server says of itself in each stream, or else when it is
// asked. A server before 2.11 says nothing, which is level 0.
func (b *Bus) apiLevel(ctx context.Context, js *jetstream.StreamConfig) (int, error) {
	if level, err := strconv.Atoi(js.Metadata["_nats.level"]); err == nil {
		return level, nil
	}
	account, err := b.core.JetStream.AccountInfo(ctx)
	if err != nil {
		return 0, streamError(js.Name, "ask for the server's API level", err)
	}
	return account.API.Level, nil
}

var unknownField = regexp.MustCompile(`unknown field "?([a-z_]+)`)

// refusal is streamError for a configuration that the server did not take.
func refusal(name, op string, err error) error {
	refused, ok := errors.AsType[*jetstream.APIError](err)
	if ok && refused.ErrorCode == jserr.InvalidJSON {
		if m := unknownField.FindStringSubmatch(refused.Description); m != nil {
			return &UnsupportedError{Stream: name, Fields: []string{m[1]}, Err: err}
		}
	}
	return streamError(name, op, err)
}

// stored returns an error unless the server has what it was sent: an old one leaves
// out what it does not know.
func stored(sent, has *jetstream.StreamConfig, fields []*field) error {
	e := &UnsupportedError{Stream: sent.Name, Changed: true}
	for _, f := range fields {
		if f.show(sent) != f.show(has) {
			e.Fields = append(e.Fields, f.name)
		}
	}
	if len(e.Fields) > 0 {
		return e
	}
	return nil
}
