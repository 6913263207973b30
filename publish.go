package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/outlet"
)

// Publish sends v to all current subscribers of s, at most once. There may be none. nil
// means that the connection has the message, not that somebody received it. Messages of one
// bus on one subject arrive in order. Use PublishTo for messages that must not be lost.
//
// On a connection to another process, the first message to each of the first 64 subjects
// waits for an answer of the server, for at most 1 s, so that Publish returns a
// *SubjectError if the permission to publish is missing. Once the server has refused a
// message to a subject, Publish waits there until one is accepted. A message that is refused
// without such an answer is reported as event.PublishFailed, once a minute for each subject.
//
// Errors: *SubjectError, *CodecError, *ValidationError, *PayloadError, *CapturedError (with
// WithStrictPublish), *OptionError, ErrClosed, ErrDisconnected, and the error of a ctx that
// has ended.
func Publish[T any](ctx context.Context, b *Bus, s Subject[T], v T, opts ...PublishOption) error {
	var m outlet.Message
	if err := prepare(ctx, b, "Publish", &m, string(s), v, opts); err != nil {
		return err
	}
	return b.send(ctx, &m)
}

// PublishBatch publishes all values to s, in order, and waits until the server has processed
// them. It encodes all values before it sends the first one. MsgID is an error with more
// than one value, because it names one message.
//
// Errors: those of Publish, and ErrTimeout if the server does not confirm in time. Then some
// of the messages may have been sent.
func PublishBatch[T any](ctx context.Context, b *Bus, s Subject[T], vs []T, opts ...PublishOption) error {
	if len(vs) == 0 {
		return checkEmptyBatch(ctx, b, string(s), opts)
	}
	ms := make([]outlet.Message, len(vs))
	for i, v := range vs {
		if err := prepare(ctx, b, "PublishBatch", &ms[i], string(s), v, opts); err != nil {
			return err
		}
	}
	if id := ms[0].ID; id != "" && len(ms) > 1 {
		return &OptionError{Option: "MsgID", Value: strconv.Quote(id), Reason: fmt.Sprintf("names one message, and the batch has %d; call Publish for each", len(ms))}
	}
	return b.opError("PublishBatch", ms[0].Subject, b.core.Link.Prove(ctx, func() error {
		for i := range ms {
			if err := b.core.Outlet.Send(ctx, &ms[i]); err != nil {
				return err
			}
		}
		return b.Flush(ctx)
	}, ms[0].Subject))
}

// checkEmptyBatch checks the arguments of PublishBatch when there are no values.
func checkEmptyBatch(ctx context.Context, b *Bus, subj string, opts []PublishOption) error {
	if err := b.callable(ctx, "PublishBatch"); err != nil {
		return err
	}
	if _, err := publishOptions(opts); err != nil {
		return err
	}
	return checkLiteral(subj)
}

// PublishAsync puts the message into a buffer and returns. A goroutine of the bus sends the
// messages of the buffer. It flushes when the buffer is empty, after 100 messages or after
// 100 ms. Flush and Close send the rest. If the buffer is full, PublishAsync waits until ctx
// ends, or returns ErrBufferFull (see WithAsyncBuffer). v may be changed after the call.
//
// Errors of the call are those of Publish. A message that fails later, or that the server
// refuses because a permission is missing, is reported as event.PublishFailed.
func PublishAsync[T any](ctx context.Context, b *Bus, s Subject[T], v T, opts ...PublishOption) error {
	var m outlet.Message
	if err := prepare(ctx, b, "PublishAsync", &m, string(s), v, opts); err != nil {
		return err
	}
	if aliased(v) {
		m.Data = bytes.Clone(m.Data)
	}
	return b.opError("PublishAsync", m.Subject, b.async.Add(ctx, &m))
}

// aliased reports whether the payload of v may share the memory of v, as that of bytes and
// of encoded JSON does.
func aliased(v any) bool {
	switch v.(type) {
	case []byte, json.RawMessage, *json.RawMessage:
		return true
	}
	t := reflect.TypeOf(v)
	return t != nil && t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

// prepare fills m, which is empty, for a Publish, and checks that it may be sent.
func prepare[T any](ctx context.Context, b *Bus, call string, m *outlet.Message, subj string, v T, opts []PublishOption) error {
	if err := b.callable(ctx, call); err != nil {
		return err
	}
	o, err := publishOptions(opts)
	if err == nil {
		err = encode(m, b.format, subj, v, o)
	}
	if err == nil {
		err = b.admit(ctx, m)
	}
	if err != nil {
		return b.refused(err)
	}
	return nil
}

// refused counts a message that was not sent, and returns err.
func (b *Bus) refused(err error) error {
	b.core.Counters.PublishFailed.Add(1)
	return err
}

// admit checks the size of m, and whether a stream stores its subject.
func (b *Bus) admit(ctx context.Context, m *outlet.Message) error {
	if err := b.core.Outlet.CheckSize(m); err != nil {
		return payloadError(err)
	}
	if b.captures.Find(m.Subject) == nil {
		return nil
	}
	return b.captured(ctx, m.Subject)
}

// captured counts and reports a message for a subject that a stream stores.
func (b *Bus) captured(ctx context.Context, subj string) error {
	c := b.captures.Find(subj)
	first := !b.captures.Reported(subj)
	if first || b.cfg.publish.strict {
		c = b.captures.Confirm(ctx, subj)
	}
	if c == nil {
		return nil
	}
	b.core.Counters.Captured.Add(1)
	err := &CapturedError{Call: "Publish", Subject: subj, Stream: c.Name}
	if b.cfg.publish.strict {
		return err
	}
	if first && b.captures.RegisterReport(subj) {
		b.report(event.Event{Kind: event.Captured, Subject: subj, Stream: c.Name, Err: err})
	}
	return nil
}

func (b *Bus) send(ctx context.Context, m *outlet.Message) error {
	return b.opError("Publish", m.Subject, b.core.Outlet.SendProven(ctx, m))
}
