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
	ackWait  time.Duration // 0 if not given
	retry    RetryPolicy
	key      keyOptions
	start    consumer.Start // zero: not given
	interval time.Duration  // between the starts of two handler calls; 0 for none
	batch    batchOptions
}

func newConsumeOptions() *consumeOptions {
	return &consumeOptions{handlerOptions: *newHandlerOptions(), retry: defaultRetry}
}

// consumeOption is an option of Consume alone.
type consumeOption func(*consumeOptions)

func (f consumeOption) onConsume(o *consumeOptions) { f(o) }

// AckWait is how long the server waits for an acknowledgement or in-progress signal of a
// message before it redelivers the message. The default is 30 s, the minimum 1 s, the maximum
// 100 years. The bus sends in-progress signals while a message waits or its handler runs. So
// AckWait only sets how soon the messages of a crashed process are redelivered. On an embedded
// server without a port that is at once when the process starts again; with a port it is after
// AckWait, because another process may have the messages.
//
// It is a setting of the durable: all processes should give the same value, because the last one
// to start sets it. All of them follow it. A longer AckWait counts at once. A shorter one counts
// half a minute later if other processes take part: until then they learn of it and signal more
// often, so that the server redelivers nothing that they handle. A client that is not this
// library does not learn of it.
func AckWait(d time.Duration) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		if d < time.Second || d > farthest {
			o.fail("AckWait", d, "must be at least 1s, and at most 100 years")
			return
		}
		o.ackWait = d
	})
}

// Retry sets when and how often a failed message is tried again. See RetryPolicy.
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

// RateLimit lets at most n handler calls start in each per. They start evenly, one every
// per/n. The limit holds for each process by itself. A message that waits for its turn is kept
// alive with in-progress signals. If the consumer ends first, the message is returned to the
// stream. In a batch each message counts.
func RateLimit(n int, per time.Duration) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		switch {
		case n < 1 || per <= 0 || per/time.Duration(n) == 0:
			o.fail("RateLimit", fmt.Sprintf("%d, %v", n, per), "both must be more than zero, and at most one call a nanosecond")
			return
		case per/time.Duration(n) > 24*time.Hour:
			o.fail("RateLimit", fmt.Sprintf("%d, %v", n, per), "must allow at least one call in 24h")
			return
		}
		o.interval = per / time.Duration(n)
	})
}

// StartOption names the message of its stream with which a durable, or a Replay, starts. For a
// durable it counts when the durable is created. If the durable exists with another start,
// Consume returns a *ConsumerConflictError. Without a StartOption an existing durable goes on
// where it is. Consumer.Rewind sends it back.
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
	o.startAt(s.start.String(), s.start.Sequence, s.start.Time, 0)
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
		if t := s.start.Time; !representable(t) {
			return &OptionError{Option: "StartAtTime", Value: t.Format(time.RFC3339), Reason: "must lie between the years 1678 and 2262, which the server can represent; use StartAtFirst for all messages, or StartAtNew for new ones"}
		}
	}
	return nil
}

// StartAtFirst starts with the first stored message. It is the default.
func StartAtFirst() StartOption { return StartOption{consumer.Start{Kind: consumer.StartFirst}} }

// StartAtLast starts with the last stored message that matches.
func StartAtLast() StartOption { return StartOption{consumer.Start{Kind: consumer.StartLast}} }

// StartAtNew starts with the first message that is stored after the durable was created.
func StartAtNew() StartOption { return StartOption{consumer.Start{Kind: consumer.StartNew}} }

// StartAtSequence starts with the message that has this sequence in the stream, or with the
// first one after it.
func StartAtSequence(sequence uint64) StartOption {
	return StartOption{consumer.Start{Kind: consumer.StartSequence, Sequence: sequence}}
}

// StartAtTime starts with the first message that was stored at t or later. Use a fixed t. A
// t that the program computes at each start, such as an hour ago, differs each time. So the
// second start is a conflict. A t in the future makes a durable start with the next message.
// t lies between the years 1678 and 2262.
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
	stuck  *KeyRule     // nil if not given
}

// follow reports whether the messages behind a dead letter become dead letters too.
func (k *keyOptions) follow() bool { return k.stuck != nil && *k.stuck == KeyFollows }

// keyFunc returns the key of a message. An error makes the message a dead letter.
type keyFunc func(*wire.Delivery) (string, error)

// keyMaker makes a keyFunc for a bus's format and the options of one consumer.
type keyMaker func(f *payload.Format, o *handlerOptions) keyFunc

// KeyBySubject keeps the order of the messages of each subject: the subject is their key. The
// handler gets one message of a key at a time. The next one comes when that one is done.
// Messages of different keys are handled at the same time, up to Concurrency. A message that
// waits for its next attempt delays its own key only.
//
// The messages of a key succeed in the order of the stream, also after failures, lost
// connections, restarts and crashes. After a crash, messages with keys wait up to AckWait for
// those that the crashed process had. On an embedded server without a port they do not wait. A message that becomes a dead letter is skipped, see
// AfterDeadLetter. As always, a message may be delivered more than once.
//
// Several processes, or buses, that consume the same durable share the work and keep the order
// together. This needs a server that other processes can reach: an external one, or one with
// WithListen. One process is the owner (stats.Subscription.Owner). It takes the messages and
// assigns each to a process with a free handler, preferably to itself. All processes must give
// the same key option. Processes may start, stop, crash and hang at any time. An owner that
// stops hands over at once. An owner that is silent for a third of AckWait (at most 10 s)
// is replaced, and its messages are redelivered after AckWait. If it was only hanging, its
// handlers may still run for messages that others handle too. Their outcomes are refused and
// reported as event.SettlementRefused, with ErrUnknownOutcome if a reply was lost and the outcome
// may count. On an embedded server without a port, only one consumer
// at a time may take a durable with keys. A second one is an *OptionError.
//
// The key option is stored with the durable. While processes with another key, or without one,
// ask for messages, Consume returns a *ConsumerConflictError. To change the key, stop the old
// processes first. Of KeyBy only the type of its function is compared.
//
// Only one option may set the key.
func KeyBySubject() ConsumeOption {
	return keyOption("KeyBySubject", "subject", func(*payload.Format, *handlerOptions) keyFunc {
		return func(d *wire.Delivery) (string, error) { return d.Subject, nil }
	})
}

// KeyByToken is KeyBySubject with the n-th token of the subject as the key, counted from 1. The
// subject of the consumer must have n tokens. If it ends with ">", shorter subjects may match;
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

// token returns the n-th token of a subject, from 1, or "" if the subject has fewer.
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

// checkToken checks the key against a subject that is consumed.
func (o *consumeOptions) checkToken(filter string) {
	if o.key.token > 0 && token(filter, o.key.token) == "" && !strings.HasSuffix(filter, ">") {
		o.fail("KeyByToken", o.key.token, fmt.Sprintf("the subject %q has only %d tokens", filter, strings.Count(filter, ".")+1))
	}
}

// checkKey checks the key against the type that the handler takes.
func (o *consumeOptions) checkKey(handled reflect.Type) {
	if o.key.stuck != nil && o.key.make == nil {
		o.fail("AfterDeadLetter", keyRules[*o.key.stuck], "there are no keys; add KeyBySubject, KeyByToken, KeyByHeader or KeyBy")
	}
	if o.key.of != nil && o.key.of != handled {
		o.fail("KeyBy", fmt.Sprintf("func(*Msg[%v]) string", o.key.of), fmt.Sprintf("the handler takes %v; use the same type", handled))
	}
}

// KeyByHeader is KeyBySubject with the first value of a header as the key. Messages without
// the header have no key: they are handled at the same time, in no order.
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

// KeyBy is KeyBySubject with the result of key as the key. The function must always return
// the same key for the same message. Messages for which it returns "" have no key: they are
// handled at the same time, in no order. T must be the type of the handler.
//
// key is called when a message arrives. It must be fast, because the next message waits for it.
// The message is decoded for key and again for the handler. A message that cannot be decoded,
// or for which key panics, becomes a dead letter.
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

// keyed returns a keyFunc that decodes a message and calls key. nats.go's goroutines call it.
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

// keyOption returns an option that sets the key. name describes the key to people.
func keyOption(option, name string, mk keyMaker) ConsumeOption {
	return consumeOption(func(o *consumeOptions) { o.keyBy(option, name, mk) })
}

func (o *consumeOptions) keyBy(option, name string, mk keyMaker) {
	if o.key.make != nil {
		o.fail(option, name, o.key.option+" sets the key already; leave one out")
		return
	}
	o.key.make, o.key.option, o.key.name = mk, option, name
}

// KeyRule is what happens to a key after one of its messages has become a dead letter.
type KeyRule int

// What happens to a key after a dead letter.
const (
	// KeyGoesOn: the next message of the key is handled.
	KeyGoesOn KeyRule = iota
	// KeyFollows: all later messages of the key become dead letters too, with CauseBehind, as
	// long as the key has dead letters. Redrive returns them in order. New messages of the key
	// wait until those are done.
	KeyFollows
)

// keyRules are the names of the rules.
var keyRules = []string{KeyGoesOn: "KeyGoesOn", KeyFollows: "KeyFollows"}

// AfterDeadLetter sets what happens to a key after one of its messages has become a dead
// letter: it has used up its attempts, or cannot succeed. The default is KeyGoesOn.
//
// While a message waits for its next attempt, the later messages of its key wait, and other
// keys go on. Up to 1,000 messages wait in this process (4 × Concurrency if that is more),
// and up to 8 MiB. What does not fit waits in S-retry, and comes back in order. If a message
// fails for 30 s, and at least a quarter of the messages that a consumer may hold (1,000
// unless Concurrency needs more) wait behind it, event.KeyStuck is reported. Other keys wait
// too only if S-retry cannot store more, or if messages of more than 1,000 keys fail at the
// same time. Health reports that.
func AfterDeadLetter(p KeyRule) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		if p != KeyGoesOn && p != KeyFollows {
			o.fail("AfterDeadLetter", int(p), "use KeyGoesOn or KeyFollows")
			return
		}
		o.key.stuck = &p
	})
}

// The defaults of ConsumeBatch.
const (
	defaultBatchSize = 100
	defaultBatchWait = 100 * time.Millisecond
	maxBatchSize     = 10_000
)

// batchOptions is what BatchSize and BatchWait set.
type batchOptions struct {
	size int            // 0 if not given
	wait *time.Duration // nil if not given
}

// completeBatch checks the options about batches and fills in the defaults, when all
// options are known.
func (o *consumeOptions) completeBatch(call string, batches bool) {
	b := &o.batch
	if !batches {
		if b.size != 0 || b.wait != nil {
			o.fail(call, "BatchSize or BatchWait", "is for ConsumeBatch only")
		}
		return
	}
	if b.size == 0 {
		b.size = defaultBatchSize
	}
	if b.wait == nil {
		b.wait = new(defaultBatchWait)
	}
	if o.atOnce() > maxConcurrency {
		o.fail("BatchSize", b.size, fmt.Sprintf("times the Concurrency of %d is more than %d messages", o.concurrency, maxConcurrency))
	}
}

// atOnce is how many messages are handled at once.
func (o *consumeOptions) atOnce() int { return o.concurrency * max(o.batch.size, 1) }

// BatchSize is the maximum number of messages in a batch, from 1 to 10,000. The default is 100.
// Batches of large messages are smaller, because a process takes about 8 MiB at a time.
// With keys, the messages behind a failed one of their key come again; with few keys and many
// failures smaller batches repeat less.
func BatchSize(n int) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		if n < 1 || n > maxBatchSize {
			o.fail("BatchSize", n, fmt.Sprintf("must lie between 1 and %d", maxBatchSize))
		}
		o.batch.size = n
	})
}

// BatchWait is how long ConsumeBatch waits for more messages if there are fewer than BatchSize.
// The default is 100 ms; 0 means not at all; the maximum is an hour.
func BatchWait(d time.Duration) ConsumeOption {
	return consumeOption(func(o *consumeOptions) {
		if d < 0 || d > time.Hour {
			o.fail("BatchWait", d, "must lie between 0 and 1h")
		}
		o.batch.wait = &d
	})
}
