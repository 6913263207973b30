package bus

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/omnibus-go/bus/internal/deadletter"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

// Redrive returns the dead letters that match f to the consumers that could not handle them, and to
// no other. Each is handled once more as if it came for the first time, in the order of the
// stream. One that fails again becomes a dead letter again. Redrive returns how many it
// returned, also with an error. DeadFilter.Rate limits the rate.
//
// Errors are those of Discard, and a *ConsumerError if the consumer of a dead letter
// was deleted: then none is returned.
func (s *Stream) Redrive(ctx context.Context, f DeadFilter) (int, error) {
	q, err := s.deadQueueHere(ctx, "Redrive", &f)
	if err != nil {
		return 0, err
	}
	n, err := q.Redrive(ctx, f.filter(s), f.pause())
	return n, s.deadError(ctx, "Redrive", err)
}

// RedriveAs returns the dead letter l, of DeadLetters, to the consumer that could not handle it,
// with the payload v instead of its own. It is for messages that no handler can take as
// they are.
//
// v is encoded as Publish would. The header is that of l, which you may change before,
// except the names that describe the encoding of the payload, and those that WithHeader
// sets. A []byte keeps the content type of l. The header Bus-Edited gets the time of the
// edit, one value for each edit. When the message is stored for its consumer the dead
// letter is removed. After a crash in between, call RedriveAs again with the same v: it
// goes on.
//
// Errors: *OptionError, *CodecError, *ValidationError, *PayloadError, a *ConsumerError if
// the consumer was deleted, a *StreamError also if the dead letter does not exist any more
// (it was redriven or discarded), or if the message waits for its consumer already,
// unchanged or with another change; *switchover.StreamMovedError, ErrTimeout, ErrClosed. After an
// error the dead letter stays.
func RedriveAs[T any](ctx context.Context, l *DeadLetter, v T, opts ...MessageOption) error {
	if l == nil || l.stream == nil {
		return badArgument("RedriveAs", "dead letter", "is not one of DeadLetters")
	}
	b := l.stream.bus
	done, err := b.enter(ctx, "RedriveAs")
	if err != nil {
		return err
	}
	defer done()
	o := &sendOptions{}
	if err := applyAll(opts, o, MessageOption.onPublish); err != nil {
		return err
	}
	var m outlet.Message
	if err := encode(&m, b.format, l.Subject, v, o); err != nil {
		return err
	}
	_, verbatim := any(v).([]byte)
	m.Header = l.editedHeader(m.Header, verbatim && o.codec == nil)
	if err := b.core.Outlet.CheckSize(&m); err != nil {
		return payloadError(err)
	}
	if err = l.stream.checkDeadHere(ctx); err == nil {
		err = deadletter.Of(b.core, l.stream.name).RedriveAs(ctx, l.message, m.Header, m.Data)
	}
	return l.stream.deadError(ctx, "RedriveAs", err)
}

// editedHeader returns the header of l for another payload. set has the names that the call
// sets.
func (l *DeadLetter) editedHeader(set wire.Header, keepType bool) wire.Header {
	h := make(wire.Header, len(l.Header)+len(set)+1)
	for key, values := range l.Header {
		replaced := strings.EqualFold(key, wire.HeaderContentEncoding) || !keepType && strings.EqualFold(key, wire.HeaderContentType)
		for k := range set {
			replaced = replaced || strings.EqualFold(key, k)
		}
		if !replaced {
			h[key] = values
		}
	}
	maps.Copy(h, set)
	h[wire.HeaderBusEdited] = slices.Concat(h[wire.HeaderBusEdited], []string{time.Now().UTC().Format(time.RFC3339Nano)})
	return h
}
