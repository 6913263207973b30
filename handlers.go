package bus

import (
	"context"

	"github.com/omnibus-go/bus/codec"
)

// typed turns a handler of T into one of raw messages: decode, validate, call.
func typed[T any](h Handler[T]) maker {
	return func(f *format, o *handlerOptions) RawHandler {
		info := typeOf[T](f)
		return func(ctx context.Context, raw *RawMsg) error {
			m, err := decode[T](f, info, o.assumed(f, info, raw.Subject), raw)
			if err != nil {
				return &unreadable{err}
			}
			return h(ctx, m)
		}
	}
}

// maker makes a handler for a bus's format and the options of one subscription.
type maker func(f *format, o *handlerOptions) RawHandler

// assumed is the codec of messages that name none.
func (o *handlerOptions) assumed(f *format, info *typeInfo, subj string) codec.Codec {
	return f.codecFor(subj, info, o.codec)
}
