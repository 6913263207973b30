package bus

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"github.com/omnibus-go/bus/internal/wire"
)

// keyFunc names the key of a message. An error means that it has none, and why.
type keyFunc func(*wire.Delivery) (string, error)

// keyMaker makes a keyFunc for a bus's format and the options of one consumer.
type keyMaker func(f *format, o *handleOptions) keyFunc

// KeyBySubject keeps the order of the messages of each subject: of those at most one
// is with the handler at a time, and the next one comes when that is done. Messages
// of different keys go side by side, as many as Concurrency says; a message that
// waits for its next attempt holds up its own key only.
//
// Of each key the successes are in the order of the stream, also over failures,
// lost connections, restarts and crashes. After a crash messages with keys wait for
// those that the dead process had, which is up to AckWait. A message that becomes a
// dead letter is passed over, see OnStuckKey. Messages may come twice, as ever.
//
// Several processes, or buses, that consume the same durable share the work and keep
// the order together, where others can reach the server: an external one, or one with
// WithListen. One of them is the owner (SubscriptionStats.Owner): it takes the messages
// in and gives them to whoever has a handler free, itself first. All must give the same
// key; the owner's counts. Members may come, go, die and stand still at any time. The
// owner that leaves hands over at once; one that is not heard of for a third of AckWait
// (at most 10 s) is replaced, and what it had comes again after AckWait. A process that
// stood still meanwhile may still be at a message that others handle too: its outcome
// is refused, and reported as event.SettlementRefused. On an embedded server without a
// port one consumer at a time takes a durable with keys; a second one is refused with
// an *OptionError.
//
// The durable notes its key. While members with another key, or none, ask for messages,
// Consume is refused with a *ConsumerConflictError: a deploy that changes the key stops
// the old members first. So far as the function of KeyBy goes, its type is its name.
//
// Only one option may say the key.
func KeyBySubject() ConsumeOption {
	return keyOption("KeyBySubject", "subject", func(*format, *handleOptions) keyFunc {
		return func(d *wire.Delivery) (string, error) { return d.Subject, nil }
	})
}

// KeyByToken is KeyBySubject for the n-th token of the subject, counted from 1. The
// consumer's subject must have so many. Below a ">" there may be shorter subjects;
// their messages have no key.
func KeyByToken(n int) ConsumeOption {
	return consumeOption(func(o *handleOptions) {
		if n < 1 {
			o.fail("KeyByToken", n, "tokens are counted from 1")
			return
		}
		o.keyToken = n
		o.keyBy("KeyByToken", fmt.Sprint("token ", n), func(*format, *handleOptions) keyFunc {
			return func(d *wire.Delivery) (string, error) { return token(d.Subject, n), nil }
		})
	})
}

// token is the n-th of a subject, from 1; "" where it has fewer.
func token(subject string, n int) string {
	for ; n > 1; n-- {
		_, after, more := strings.Cut(subject, ".")
		if !more {
			return ""
		}
		subject = after
	}
	one, _, _ := strings.Cut(subject, ".")
	return one
}

// checkKey checks the key against the subject that is consumed and the type of its
// messages.
func (o *handleOptions) checkKey(filter string) error {
	if o.keyToken > 0 && token(filter, o.keyToken) == "" && !strings.HasSuffix(filter, ">") {
		return &OptionError{Option: "KeyByToken", Value: fmt.Sprint(o.keyToken), Reason: fmt.Sprintf("the subject %q has only %d tokens", filter, strings.Count(filter, ".")+1)}
	}
	if o.stuckGiven && o.key == nil {
		return &OptionError{Option: "OnStuckKey", Value: fmt.Sprint(o.stuckKey), Reason: "there are no keys; add KeyBySubject, KeyByToken, KeyByHeader or KeyBy"}
	}
	if o.keyType != nil && o.keyType != o.handled {
		return &OptionError{Option: "KeyBy", Value: fmt.Sprintf("func(*Msg[%v]) string", o.keyType),
			Reason: fmt.Sprintf("the handler takes %v; use the same type", o.handled)}
	}
	return nil
}

// KeyByHeader is KeyBySubject for the first value of a header. Messages without it
// have no key: they go side by side, in no order.
func KeyByHeader(name string) ConsumeOption {
	return consumeOption(func(o *handleOptions) {
		if err := wire.CheckName(name); err != nil {
			o.fail("KeyByHeader", fmt.Sprintf("%q", name), err.Error())
			return
		}
		o.keyBy("KeyByHeader", "header "+name, func(*format, *handleOptions) keyFunc {
			return func(d *wire.Delivery) (string, error) { return wire.Get(d.Header, name), nil }
		})
	})
}

// KeyBy is KeyBySubject for what key returns, which must be the same each time for the
// same message. Messages for which it returns "" have no key: they go side by side,
// in no order. T must be the type of the handler.
//
// key is called when a message arrives and must be quick: the next one waits for it.
// The message is decoded for it, and once more for the handler. A message that cannot
// be decoded, or for which key panics, is not handled but becomes a dead letter.
func KeyBy[T any](key func(*Msg[T]) string) ConsumeOption {
	return consumeOption(func(o *handleOptions) {
		if key == nil {
			o.fail("KeyBy", "nil", "give a function")
			return
		}
		o.keyType = reflect.TypeFor[T]()
		o.keyBy("KeyBy", "function of "+o.keyType.String(), func(f *format, o *handleOptions) keyFunc { return keyed(f, o, key) })
	})
}

// keyed turns a key of T into one of raw messages.
func keyed[T any](f *format, o *handleOptions, key func(*Msg[T]) string) keyFunc {
	info := typeOf[T](f)
	return func(d *wire.Delivery) (name string, err error) {
		guard(context.Background(), func(_ context.Context, raw *RawMsg) error {
			m, err := decode[T](f, info, o.assumed(f, info, raw.Subject), raw)
			if err != nil {
				return &unreadable{err}
			}
			name = key(m)
			return nil
		}, newRaw(&d.In, d.Stored), &err)
		return name, err
	}
}

func keyOption(option, said string, mk keyMaker) ConsumeOption {
	return consumeOption(func(o *handleOptions) { o.keyBy(option, said, mk) })
}

func (o *handleOptions) keyBy(option, said string, mk keyMaker) {
	if o.key != nil {
		o.fail(option, said, "the key has been said already, by "+o.keyOption+"; leave one out")
		return
	}
	o.key, o.keyOption, o.keySaid = mk, option, said
}

// keyFunc is the function that names keys, nil without keys.
func (o *handleOptions) keyFunc(f *format) keyFunc {
	if o.key == nil {
		return nil
	}
	return o.key(f, o)
}

// handles notes the type of the messages that the handler takes.
func handles[T any]() ConsumeOption {
	return consumeOption(func(o *handleOptions) { o.handled = reflect.TypeFor[T]() })
}
