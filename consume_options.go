package bus

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/omnibus-go/bus/internal/consumer"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/wire"
)

// ConsumeOption changes one Consume.
type ConsumeOption interface{ onConsume(*consumeOptions) }

// consumeOptions is what the options of one consumer set.
type consumeOptions struct {
	handlerOptions
	ackWait  time.Duration // 0 where it was not given
	retry    RetryPolicy
	key      keyOptions
	start    consumer.Start // zero: not given
	interval time.Duration  // between the beginnings of two handler calls
	batch    batchOptions
}

func newConsumeOptions() *consumeOptions {
	return &consumeOptions{handlerOptions: *newHandlerOptions(), retry: defaultRetry}
}

// consumeOption is an option of Consume alone.
type consumeOption func(*consumeOptions)

func (f consumeOption) onConsume(o *consumeOptions) { f(o) }

const defaultAckWait = 30 * time.Second

// AckWait is how long the server waits for a sign of life of a message before it
// gives it to another member; the default is 30 s. The library sends such signs
// by itself for as long as the message waits or its handler runs, so this only
// says how soon the messages of a process that died come again. At least 1 s. It
// holds for all members of a durable, which should give the same: the last one to
// start sets it.
func AckWait(d time.Duration) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		if d < time.Second {
			o.fail("AckWait", d, "must be at least 1s")
			return
		}
		o.ackWait = d
	})
}

// Retry sets when, and how often, a failed message is tried again.
func Retry(p RetryPolicy) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		p := p.withDefaults() // an option may be used by several calls at once
		switch {
		case p.MaxAttempts < Unlimited:
			o.fail("Retry", fmt.Sprintf("MaxAttempts %d", p.MaxAttempts), "must be more than zero, or bus.Unlimited")
		case p.MaxCrashes < Unlimited:
			o.fail("Retry", fmt.Sprintf("MaxCrashes %d", p.MaxCrashes), "must be more than zero, or bus.Unlimited")
		case p.MinBackoff < 0 || p.MaxBackoff < p.MinBackoff:
			o.fail("Retry", fmt.Sprintf("MinBackoff %v, MaxBackoff %v", p.MinBackoff, p.MaxBackoff),
				"the backoffs must be more than zero, and MaxBackoff not less than MinBackoff")
		default:
			o.retry = p
		}
	})
}

// RateLimit lets n handler calls begin in each per, evenly: one each per/n. It holds
// for each member by itself. Messages that wait for their turn are kept alive; when
// the consumer ends they are given back. In a batch each message counts.
func RateLimit(n int, per time.Duration) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		if n < 1 || per <= 0 || per/time.Duration(n) == 0 {
			o.fail("RateLimit", fmt.Sprintf("%d, %v", n, per), "both must be more than zero, and at most one call a nanosecond")
			return
		}
		o.interval = per / time.Duration(n)
	})
}

// StartOption says with which message of its stream a durable begins. It holds when
// the durable is made. On one that exists another start is a *ConsumerConflictError,
// and none leaves it where it is; Consumer.Rewind sends it back.
type StartOption struct{ start consumer.Start }

func (s StartOption) onConsume(o *consumeOptions) {
	if err := s.check("Consume"); err != nil {
		o.addError(err)
	}
	if o.start != (consumer.Start{}) && o.start != s.start {
		o.addError(&OptionError{Option: "Consume start", Value: s.start.String(), Reason: "another option says " + o.start.String() + " already; leave one out"})
		return
	}
	o.start = s.start
}

func (s StartOption) onReplay(o *replayOptions) {
	if err := s.check("Replay"); err != nil {
		o.addError(err)
		return
	}
	if !s.names() {
		o.addError(&OptionError{Option: "Replay start", Value: s.start.String(), Reason: "use Last, StartAtFirst, StartAtSequence or StartAtTime"})
		return
	}
	o.startAt(s.start.Sequence, s.start.Time, 0)
}

// names reports whether s names a message that may be stored already.
func (s StartOption) names() bool {
	return s.start.Kind == consumer.StartFirst || s.start.Kind == consumer.StartSequence || s.start.Kind == consumer.StartTime
}

func (s StartOption) check(call string) error {
	switch s.start.Kind {
	case consumer.StartUnset:
		return &OptionError{Option: call, Value: "StartOption{}", Reason: "make it with a function such as StartAtFirst"}
	case consumer.StartSequence:
		if s.start.Sequence == 0 {
			return &OptionError{Option: "StartAtSequence", Value: "0", Reason: "sequences begin with 1"}
		}
	case consumer.StartTime:
		if s.start.Time.IsZero() {
			return &OptionError{Option: "StartAtTime", Value: s.start.Time.String(), Reason: "is the zero time; use StartAtFirst for all messages"}
		}
	}
	return nil
}

// StartAtFirst begins with the first message that is stored, which is the default.
func StartAtFirst() StartOption { return StartOption{consumer.Start{Kind: consumer.StartFirst}} }

// StartAtLast begins with the last message that is stored and matches.
func StartAtLast() StartOption { return StartOption{consumer.Start{Kind: consumer.StartLast}} }

// StartAtNew begins with the first message that is stored after the durable was made.
func StartAtNew() StartOption { return StartOption{consumer.Start{Kind: consumer.StartNew}} }

// StartAtSequence begins with the message that has this sequence in the stream, or the
// first one after it.
func StartAtSequence(sequence uint64) StartOption {
	return StartOption{consumer.Start{Kind: consumer.StartSequence, Sequence: sequence}}
}

// StartAtTime begins with the first message that was stored at t or later. A t that a
// program computes anew when it starts, as an hour ago, is another start each time, and
// a conflict from the second time on.
func StartAtTime(t time.Time) StartOption {
	return StartOption{consumer.Start{Kind: consumer.StartTime, Time: t.UTC().Round(0)}}
}

// keyOptions is what the options about keys set.
type keyOptions struct {
	make   keyMaker     // nil without keys
	option string       // the option that set it
	name   string       // describes the key to people; the same in all processes
	token  int          // of KeyByToken
	of     reflect.Type // of KeyBy's messages
	stuck  *StuckKey    // nil where it was not given
}

// parks reports whether the messages behind a dead letter become dead letters too.
func (k *keyOptions) parks() bool { return k.stuck != nil && *k.stuck == ParkKey }

// keyFunc names the key of a message. An error means that it has none, and why.
type keyFunc func(*wire.Delivery) (string, error)

// keyMaker makes a keyFunc for a bus's format and the options of one consumer.
type keyMaker func(f *payload.Format, o *handlerOptions) keyFunc

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
	return keyOption("KeyBySubject", "subject", func(*payload.Format, *handlerOptions) keyFunc {
		return func(d *wire.Delivery) (string, error) { return d.Subject, nil }
	})
}

// KeyByToken is KeyBySubject for the n-th token of the subject, counted from 1. The
// consumer's subject must have so many. Below a ">" there may be shorter subjects;
// their messages have no key.
func KeyByToken(n int) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		if n < 1 {
			o.fail("KeyByToken", n, "tokens are counted from 1")
			return
		}
		o.key.token = n
		o.keyBy("KeyByToken", fmt.Sprint("token ", n), func(*payload.Format, *handlerOptions) keyFunc {
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

// checkKey checks the key against the subject that is consumed and the type that the
// handler takes.
func (o *consumeOptions) checkKey(filter string, handled reflect.Type) error {
	if o.key.token > 0 && token(filter, o.key.token) == "" && !strings.HasSuffix(filter, ">") {
		return &OptionError{Option: "KeyByToken", Value: fmt.Sprint(o.key.token), Reason: fmt.Sprintf("the subject %q has only %d tokens", filter, strings.Count(filter, ".")+1)}
	}
	if o.key.stuck != nil && o.key.make == nil {
		return &OptionError{Option: "OnStuckKey", Value: fmt.Sprint(*o.key.stuck), Reason: "there are no keys; add KeyBySubject, KeyByToken, KeyByHeader or KeyBy"}
	}
	if o.key.of != nil && o.key.of != handled {
		return &OptionError{Option: "KeyBy", Value: fmt.Sprintf("func(*Msg[%v]) string", o.key.of),
			Reason: fmt.Sprintf("the handler takes %v; use the same type", handled)}
	}
	return nil
}

// KeyByHeader is KeyBySubject for the first value of a header. Messages without it
// have no key: they go side by side, in no order.
func KeyByHeader(name string) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		if err := wire.CheckName(name); err != nil {
			o.fail("KeyByHeader", fmt.Sprintf("%q", name), err.Error())
			return
		}
		o.keyBy("KeyByHeader", "header "+name, func(*payload.Format, *handlerOptions) keyFunc {
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
	return consumeOption(func(o *consumeOptions) {
		if key == nil {
			o.fail("KeyBy", "nil", "give a function")
			return
		}
		o.key.of = reflect.TypeFor[T]()
		o.keyBy("KeyBy", "function of "+o.key.of.String(), func(f *payload.Format, o *handlerOptions) keyFunc { return keyed(f, o, key) })
	})
}

// keyed turns a key of T into one of raw messages.
func keyed[T any](f *payload.Format, o *handlerOptions, key func(*Msg[T]) string) keyFunc {
	info := payload.TypeOf[T](f)
	return func(d *wire.Delivery) (name string, err error) {
		err = guard(context.Background(), func(_ context.Context, raw *RawMsg) error {
			m, err := decode[T](f, info, o.codec, raw)
			if err != nil {
				return &unreadable{err}
			}
			name = key(m)
			return nil
		}, newRaw(&d.In, d.Stored))
		return name, err
	}
}

func keyOption(option, said string, mk keyMaker) ConsumeOption {
	return consumeOption(func(o *consumeOptions) { o.keyBy(option, said, mk) })
}

func (o *consumeOptions) keyBy(option, said string, mk keyMaker) {
	if o.key.make != nil {
		o.fail(option, said, "the key has been said already, by "+o.key.option+"; leave one out")
		return
	}
	o.key.make, o.key.option, o.key.name = mk, option, said
}

// StuckKey says what becomes of a key whose message cannot be handled.
type StuckKey int

// The ways.
const (
	// BlockKey: the messages of the key wait until the failing one is handled or, after
	// its last attempt, a dead letter; then the next one is handled.
	BlockKey StuckKey = iota
	// ParkKey: when a message of the key becomes a dead letter those behind it do so
	// too, in order and with CauseBehind, also those that come later, for as long as
	// the key has dead letters. Redrive gives them back in order; new messages of the
	// key wait until those are done.
	ParkKey
)

// OnStuckKey says what becomes of a key whose message cannot be handled; the default
// is BlockKey.
//
// Behind a message that fails and waits for its next attempt the others of its key
// wait, in this process and without taking the place of other keys: up to 1,000
// messages in all (4 × Concurrency if that is more), and up to 8 MiB. When those
// behind one message are a quarter of that, or nothing more fits, that is reported as
// event.KeyStuck. With BlockKey it goes on; when nothing more fits, all keys wait for
// that message to be handled or to use up its attempts, and Health says so. With
// ParkKey that message is given up at that moment, before its last attempt, and other
// keys go on.
func OnStuckKey(p StuckKey) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		if p != BlockKey && p != ParkKey {
			o.fail("OnStuckKey", int(p), "use BlockKey or ParkKey")
			return
		}
		o.key.stuck = &p
	})
}
