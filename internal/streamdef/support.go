package streamdef

import (
	"context"
	"errors"
	"regexp"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
)

// checkLevel returns an *UnsupportedError if the server's API level is too low for some of
// the fields. It asks the server only if the stream's metadata do not say the level.
func (d *Declarer) checkLevel(ctx context.Context, js *jetstream.StreamConfig, fields []*field) error {
	e := &UnsupportedError{Stream: js.Name}
	for _, f := range fields {
		e.Level = max(e.Level, f.level)
	}
	if e.Level == 0 {
		return nil
	}
	level, err := d.apiLevel(ctx, js)
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

// apiLevel returns the server's API level. The server writes it into the metadata of each
// stream; for a new stream the server is asked. A server before 2.11 says nothing, which is
// level 0.
func (d *Declarer) apiLevel(ctx context.Context, js *jetstream.StreamConfig) (int, error) {
	if level, err := strconv.Atoi(js.Metadata["_nats.level"]); err == nil {
		return level, nil
	}
	account, err := d.core.JetStream.AccountInfo(ctx)
	if err != nil {
		return 0, jserr.Wrap(js.Name, "ask for the server's API level", err)
	}
	return account.API.Level, nil
}

var unknownField = regexp.MustCompile(`unknown field "?([a-z_]+)`)

// refusal returns the error of a configuration that the server refused: an
// *UnsupportedError if the server names a field that it does not know.
func refusal(stream, op string, err error) error {
	refused, ok := errors.AsType[*jetstream.APIError](err)
	if ok && refused.ErrorCode == jserr.InvalidJSON {
		if m := unknownField.FindStringSubmatch(refused.Description); m != nil {
			return &UnsupportedError{Stream: stream, Fields: []string{m[1]}, Err: err}
		}
	}
	return jserr.Wrap(stream, op, err)
}

// checkApplied returns an *UnsupportedError for the fields that the server has not taken: an old
// server leaves out what it does not know. So it looks, too, when another program has changed the
// stream before the server answered.
func checkApplied(sent, has *jetstream.StreamConfig, fields []*field) error {
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

// isIgnored reports whether err is one of checkApplied.
func isIgnored(err error) bool {
	e, ok := errors.AsType[*UnsupportedError](err)
	return ok && e.Changed
}
