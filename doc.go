// Package bus is an event bus with a NATS server inside. [New] starts a real server with
// JetStream in this process, without a port, and returns a [Bus] on it. [Connect] returns a
// bus on an existing server. The rest of a program is the same on both.
//
//	const OrderPlaced bus.Subject[Order] = "shop.orders.*.placed.v1"
//
//	b, err := bus.New()
//	sub, err := bus.Subscribe(b, OrderPlaced, func(ctx context.Context, m *bus.Msg[Order]) error { … })
//	err = bus.Publish(ctx, b, OrderPlaced.At("eu"), Order{ID: "o-1"})
//	err = b.Close()
//
// Calls that carry a type are functions and not methods, because methods of Go cannot have
// type parameters of their own: Publish(ctx, b, …), not b.Publish(ctx, …). The
// documentation lists a function under the type that it returns: New under Bus, Subscribe
// under Subscription, Consume under Consumer, PublishTo under Ack.
//
// A request has one reply, or an error that says what happened:
//
//	const GetQuote bus.Endpoint[Ask, Quote] = "shop.quotes.get.v1"
//
//	_, err = bus.Respond(b, GetQuote, func(ctx context.Context, m *bus.Msg[Ask]) (Quote, error) {
//		if m.Data.SKU == "" {
//			return Quote{}, bus.Public("400", "no SKU") // the caller sees this text
//		}
//		return Quote{Cents: 120}, nil
//	})
//	quote, err := bus.Request(ctx, b, GetQuote, Ask{SKU: "tea"})
//
// Messages that must not be lost belong into a stream. This program stores orders, handles
// each at least once, and stops in order on a signal:
//
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	defer stop()
//	b, err := bus.New(bus.WithStoreDir("data"))
//	orders, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: bus.Subjects(OrderPlaced)})
//	_, err = bus.Consume(ctx, orders, "billing", OrderPlaced, func(ctx context.Context, m *bus.Msg[Order]) error {
//		return bill(ctx, m.Data) // an error: the message comes again, see Retry; bus.Permanent: a dead letter at once
//	}, bus.Concurrency(4))
//	_, err = bus.PublishTo(ctx, orders, OrderPlaced.At("eu"), Order{ID: "o-2"}, bus.MsgID("o-2")) // nil: it is stored
//	<-ctx.Done()
//	stop()          // a second signal ends the program at once
//	err = b.Close() // handlers finish; messages whose handling has not begun come at the next start
//
// # Promises
//
// [Publish], [PublishBatch] and [PublishAsync] deliver a message at most once, to everyone
// who is subscribed at that moment. Messages of one bus on one subject arrive in order, as
// long as the same function sends them. A [Subscribe] handler that is too slow loses the
// messages that exceed [PendingLimits]; they are counted and reported. None of the three
// promises storage. On a subject that a stream stores they log a warning, or fail under
// [WithStrictPublish].
//
// [Request] returns one reply, or an error that says what happened: ErrNoResponders,
// ErrTimeout, *RemoteError, ErrUnknownOutcome, ErrClosed. On a subject that a stream stores
// it returns a *CapturedError.
//
// [PublishTo] returns nil when the message is stored. How safe it is then depends on the
// stream and the bus. In memory it lasts until the process ends. On disk ([WithStoreDir]) it
// survives kill -9 and power cuts, or only kill -9 with [WithSync] and [SyncEvery]. On an
// external server it is as safe as that server is configured. With [MsgID] the stream stores
// a message once within its Duplicates window, and PublishTo repeats the call when the
// answer is lost. Without MsgID a lost answer is ErrUnknownOutcome. [PublishToAsync] returns
// a future of the same result. [PublishToBatch] stores several messages or none.
//
// [Bus.Stream] never deletes messages of an existing stream and never weakens it, unless
// [AllowShrink] is given. [Stream.Plan] says in advance what a declaration would do. With a
// Revision, an older version of a program never undoes what a newer one declared.
//
// [Consume] handles each stored message at least once. A message is done when its handler
// returns nil. After an error the message is tried again as [Retry] says, while others go on.
// After the last attempt it becomes a dead letter, which keeps its payload and the reason
// ([Stream.DeadLetters], [Stream.Redrive]). Acknowledgements reach the disk within about
// 100 ms, so after a crash the latest messages may be delivered again. A message that ends
// the process each time becomes a dead letter, too (RetryPolicy.MaxCrashes).
//
// With [KeyBySubject], [KeyByToken], [KeyByHeader] or [KeyBy] the messages of each key are
// handled in order, one at a time. This holds over failures, restarts and crashes.
// [AfterDeadLetter] says what happens to the messages behind one that cannot be handled. Several
// processes with the same durable share the work and keep the order together.
//
// [Stream.Consume] gives the messages of a durable to handlers of several types.
// [ConsumeBatch] gives a handler several messages at once, with keys too. [Consumer.Pause] pauses a durable,
// [Consumer.Rewind] sends it back.
//
// [Bus.Close] loses nothing that was accepted, or its error says what it left behind:
// *DrainError, *UnsentError.
//
// # Concurrency
//
// Several goroutines can use a bus, its subscriptions, streams and consumers at once. The
// handler of one subscription, responder or consumer runs for one message at a time, unless
// [Concurrency] allows more. Handlers of different ones run at the same time. So a handler
// needs no lock for data that only it uses. Concurrent calls keep no order, except for
// messages of the same key.
//
// A handler of Subscribe or Respond with a Concurrency of 1 runs on the goroutine that
// receives its messages. It may take long, publish, request, and close the bus. Other
// subscriptions do not wait for it.
//
// A handler may call Close and Shutdown. They do not wait for that handler.
//
// # Contexts
//
// The context of a call bounds that call and nothing else. A stream, consumer or bus lives
// on when the context it was made with ends. If a context has no deadline, the timeout of the
// bus holds ([WithTimeout], 5 s). For Close, Drain and Unsubscribe it is the drain timeout
// ([WithDrainTimeout], 25 s).
//
// The context of a handler does not end when the bus begins to stop, so that the handler can
// finish. It ends when the drain timeout is used up, or at the deadline of [HandlerTimeout].
// A handler can call [Stopping]: the channel that it returns is closed when the bus begins
// to stop. From then on no message of a stream is given to a handler.
//
// # Errors
//
// Errors are values such as ErrClosed, for errors.Is, and types such as *SubjectError, for
// errors.As. The documentation of each call lists them. Errors in a message (*SubjectError,
// *CodecError, *ValidationError, *PayloadError) are found before anything is sent. A call
// reports all wrong options at once, as joined *OptionError values.
//
// What no call can return, such as a failed handler of Subscribe, a slow consumer or a lost
// connection, is logged and given to the function of [WithEvents]. See package event.
//
// After an error of its handler, Consume tries the message again. [RetryAfter] says when.
// [Postpone] says that the call was no attempt. [Permanent] says that another attempt would
// fail as well. The error of a responder reaches the requester as "internal error", unless it
// is made with [Public]. A request that cannot be decoded is answered with the code "400". A
// panic in a handler is an error (*PanicError). So is a handler that ends its goroutine, as
// t.FailNow does ([ErrExited]).
//
// # Messages
//
// The codec of a value is the one that the call names with [As], or a rule of [WithCodecFor]
// for the subject, or the one that the type implies ([]byte and json.RawMessage as they are,
// generated protobuf messages as protobuf), or the codec of the bus: JSON, unless [WithCodec]
// says otherwise. A string is JSON, too: use As(codec.Text) for plain text. See package codec.
//
// A reader may use another struct than the writer. It gets the fields that both have, and
// zero values for the others: JSON ignores unknown fields. A Validate method can refuse them.
//
// A message has a header only if it is needed: Content-Type for a codec that a receiver would
// not assume, Content-Encoding for a compressed payload, Nats-Msg-Id with MsgID, trace context
// with a tracer. So any NATS client can talk to a bus in JSON. docs/wire.md describes the
// whole format.
//
// A value that its codec cannot carry is an error of the call that sends it: a [CodecError] with a
// codec.TypeError if the type is at fault. Package codec lists what that is.
//
// If a type or its pointer has a method Validate() error, the bus calls it when a value is
// sent and when one is received. A nil pointer of such a type is invalid.
//
// # Options
//
// Each call accepts the options that make sense for it. Others do not compile.
//
//	New           Option: WithStoreDir, WithSync, WithMaxStore, WithMaxMemory, WithMaxPayload, WithListen, WithCluster, WithLeaf,
//	              WithUnsafePorts, WithServerOptions, WithURL, and all of the next lines
//	Connect       ConnectOption: WithName, WithVersion, WithLogger, WithSlog, WithEvents, WithCodec, WithCodecFor,
//	              WithCompression, WithMiddleware, WithTimeout, WithDrainTimeout, WithAsyncBuffer,
//	              WithStrictPublish, WithHealthThresholds, WithTracerProvider, WithMeterProvider, WithPropagator, FromEnv,
//	              WithInboxPrefix; for an existing server WithTLS, WithUser, WithToken, WithCredentials, WithNKey
//	Publish…      PublishOption: As, WithHeader, MsgID
//	PublishTo…    StoreOption: As, WithHeader, MsgID, AutoID, TTL, ExpectLastSequence, ExpectLastSubjectSequence,
//	              ExpectLastSequenceOf; ItemOf has the same
//	Request       RequestOption: As, WithHeader
//	Subscribe     SubscribeOption: Concurrency, Use, HandlerTimeout, As, Queue, PendingLimits
//	Respond       RespondOption: the same
//	Bus.Stream    DeclareOption: AllowShrink; likewise Stream.Plan
//	Replay        ReplayOption: StartAtFirst, StartAtSequence, StartAtTime, Last, Follow, As
//	RedriveAs     MessageOption: As, WithHeader
//	Consume…      ConsumeOption: Concurrency, Use, HandlerTimeout, As, Retry, AckWait, RateLimit, BatchSize, BatchWait,
//	              StartAtFirst, StartAtLast, StartAtNew, StartAtSequence, StartAtTime,
//	              KeyBySubject, KeyByToken, KeyByHeader, KeyBy, AfterDeadLetter
//
// Package middleware has middleware for WithMiddleware and Use.
//
// # Tests
//
// Package bustest gives each test its own bus. It starts in milliseconds and can run in
// virtual time.
package bus
