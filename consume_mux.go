package bus

import (
	"context"
	"reflect"
)

// Consume is the function Consume for handlers of several types: m shares the messages
// of the durable out, in stream order between them (with a Concurrency of 1).
//
// The durable gets what m has handlers for, and with a Default all that the stream
// stores; what the server does not send it is not passed over in silence, but belongs
// to nobody here. That is fixed when the durable is made. Where m asks for more later,
// it would have skipped messages; where m asks for less, messages would have no
// handler: both are a *ConsumerConflictError that lists the patterns. Handlers within
// what it gets may come and go.
//
// KeyBy takes a function of []byte here: the payloads as they were before compression.
//
// A message that no handler is for, as one that was put aside before its handler was
// removed, becomes a dead letter with CauseUnrouted.
//
// Errors: those of the function Consume; *SubjectError and *OptionError for what is
// wrong with m, *SubjectError for two patterns that overlap when neither contains the
// other, which no durable can have.
func (s *Stream) Consume(ctx context.Context, durable string, m *Mux, opts ...ConsumeOption) (*Consumer, error) {
	r, err := m.routing("Stream.Consume")
	if err != nil {
		return nil, err
	}
	filters, err := r.filters()
	if err != nil {
		return nil, err
	}
	return s.consume(ctx, durable, consumption{call: "Stream.Consume", filters: filters, make: r.shareOut, of: reflect.TypeFor[[]byte]()}, opts)
}
