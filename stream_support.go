package bus

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/omnibus-go/bus/internal/jserr"
)

// UnsupportedError is returned by Bus.Stream when the server is too old for a part
// of the configuration. A server before 2.12 would leave such parts out in silence.
type UnsupportedError struct {
	Stream string
	Fields []string // of StreamConfig, or of the server's where only Raw sets them
	Level  int      // the API level of servers that know them; 0 where that is not known
	Have   int      // the server's

	// Changed says that the server has taken the rest of the configuration: it gave
	// no sign before. Otherwise nothing was changed.
	Changed bool
	Err     error // the server's answer, where it refused
}

func (e *UnsupportedError) Error() string {
	text := fmt.Sprintf("bus: stream %q: the server does not know %s", e.Stream, strings.Join(e.Fields, ", "))
	if e.Level > 0 {
		text += fmt.Sprintf(" (it has API level %d, they need %d)", e.Have, e.Level)
	}
	text += ": use a newer server, or leave them out; "
	if e.Changed {
		return text + "it took the rest"
	}
	return text + "nothing was changed"
}

// Unwrap returns the server's answer, or nil.
func (e *UnsupportedError) Unwrap() error { return e.Err }

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
