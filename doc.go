// Package bus is an event bus with a NATS server inside. New starts a real
// server with JetStream in this process, without a port, and returns a [Bus] on
// it; [Connect] returns a bus on a server that exists. The rest of a program is
// the same on both.
//
//	const OrderPlaced bus.Subject[Order] = "shop.orders.*.placed.v1"
//
//	b, err := bus.New()
//	sub, err := bus.Subscribe(b, OrderPlaced, func(ctx context.Context, m *bus.Msg[Order]) error { … })
//	err = bus.Publish(ctx, b, OrderPlaced.At("eu"), Order{ID: "o-1"})
//	err = b.Close()
//
// Functions that carry a type are functions and not methods, since Go's methods
// can have no type parameters of their own: Publish(ctx, b, …), not
// b.Publish(ctx, …). The documentation lists those that return a type of the
// package under that type: New under Bus, Subscribe under Subscription, Consume
// under Consumer, PublishTo under Ack.
//
// A request has one reply, or an error that says which way it failed:
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
// What must not be lost goes into a stream. A program that stores orders, handles
// each at least once, and stops in order on a signal:
//
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	defer stop()
//	b, err := bus.New(bus.WithStoreDir("data"))
//	orders, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: bus.Subjects(OrderPlaced)})
//	_, err = bus.Consume(ctx, orders, "billing", OrderPlaced, func(ctx context.Context, m *bus.Msg[Order]) error {
//		return bill(ctx, m.Data) // an error: it comes again, see Retry; bus.Permanent: a dead letter at once
//	}, bus.Concurrency(4))
//	_, err = bus.PublishTo(ctx, orders, OrderPlaced.At("eu"), Order{ID: "o-2"}, bus.MsgID("o-2")) // nil: it is stored
//	<-ctx.Done()
//	stop()          // a second signal ends the program at once
//	err = b.Close() // handlers finish; what was not begun comes at the next start
//
// # Promises
//
// [Publish], [PublishBatch] and [PublishAsync] deliver at most once, to whoever
// is subscribed at that moment. Messages of one bus on one subject arrive in
// order, as long as one of the three functions sends them. A [Subscribe] handler
// that is too slow loses what exceeds [PendingLimits]; that is counted and
// reported. None of them promises storage: on a subject that a stream stores
// they warn, or fail under [WithStrictPublish].
//
// [Request] gives one reply or an error that says which way it failed:
// ErrNoResponders, ErrTimeout, *RemoteError, ErrUnknownOutcome, ErrClosed. On a
// subject that a stream stores it is a *CapturedError.
//
// [PublishTo] returns nil when the message is stored. How safely depends on the
// stream and the bus: in memory until the process ends; on disk ([WithStoreDir])
// it survives kill -9 and power cuts, or with [WithSync] and [SyncEvery] kill -9
// only; on an external server as that is configured. With [MsgID] a message is
// stored once within the stream's Duplicates window, and a lost answer makes
// PublishTo ask again; without it that is ErrUnknownOutcome. [PublishToAsync] gives a
// future for the same result, [PublishToBatch] stores several messages or none.
//
// [Bus.Stream] on an existing stream removes no message and makes none less safe,
// unless [AllowShrink] says so; [Stream.Plan] tells beforehand what would be removed.
// An older version of a program, by its Revision, never undoes what a newer one did.
//
// [Consume] handles each stored message at least once. A message is done when its
// handler returns nil. After an error it is tried again as [Retry] says, while
// others go on; when that is of no use it becomes a dead letter, which keeps its
// payload and says why ([Stream.DeadLetters], [Stream.Redrive]). Acknowledgements
// reach the disk within about 100 ms, so after a crash the last ones may come
// again. A message that ends the process each time becomes a dead letter, too
// (RetryPolicy.MaxCrashes).
//
// With [KeyBySubject], [KeyByToken], [KeyByHeader] or [KeyBy] the messages of each
// key are handled in order, one at a time, over failures, restarts and crashes;
// [OnStuckKey] says what becomes of those behind one that cannot be handled. Several
// processes with the same durable share that work and keep the order together.
//
// [Stream.Consume] shares a durable's messages out to handlers of several types;
// [ConsumeBatch] gives a handler many at once. A durable can be paused and sent back:
// [Consumer.Pause], [Consumer.Rewind].
//
// [Bus.Close] loses nothing that was accepted, or its error says what it left
// behind: *DrainError, *UnsentError.
//
// # Concurrency
//
// A bus, its subscriptions, streams and consumers can be used by several
// goroutines at once. The handler of one subscription, responder or consumer runs
// one message at a time unless [Concurrency] allows more; handlers of different
// ones run at the same time. So a handler needs no lock for what only it uses.
// Several calls at once keep no order, but for messages of the same key.
//
// A core handler that is the only one of its subscription runs on the goroutine
// that receives its messages. It may take its time, publish, request, and close
// the bus; other subscriptions do not wait for it.
//
// Close and Shutdown may be called from a handler. They do not wait for that
// handler then.
//
// # Contexts
//
// The context of a call bounds that call, and nothing else: a stream, consumer or
// bus lives on when the context it was made with ends. Where a context has no
// deadline, the bus's timeout holds ([WithTimeout], 5 s); for Close, Drain and
// Unsubscribe it is the drain timeout ([WithDrainTimeout], 30 s).
//
// A handler's context does not end when the bus begins to stop, so that the
// handler can finish its work. It ends when the drain timeout is used up, or at
// the deadline of [HandlerTimeout]. [Stopping] tells a handler that the bus has
// begun to stop.
//
// # Errors
//
// Errors are values like ErrClosed, for errors.Is, and types like *SubjectError,
// for errors.As; each call's documentation lists them. What is wrong with a
// message (*SubjectError, *CodecError, *ValidationError, *PayloadError) is found
// before anything is sent. Options that are wrong are reported all at once, as
// joined *OptionError values.
//
// What no call can return (a failed core handler, a slow consumer, a lost
// connection) is logged and goes to the function of [WithEvents].
//
// A handler's error makes Consume try again; [RetryAfter] says when, [Postpone] that
// this was no attempt, [Permanent] that it is of no use. A responder's error reaches the requester as "internal
// error", unless it is made with [Public]; a request that cannot be read is
// answered with code "400". A panic in a handler counts as an error, *PanicError,
// and so does runtime.Goexit, with which t.FailNow ends it ([ErrExited]).
//
// # Messages
//
// A value is encoded with the codec that the call names with [As], or that a rule
// of [WithCodecFor] names for the subject, or that the type implies ([]byte as it
// is, json.RawMessage as it is, generated protobuf messages as protobuf), or else
// the bus's own: JSON, unless [WithCodec] says otherwise. A string is JSON too:
// use As(codec.Text) for plain text. See package codec.
//
// Who reads a subject with another struct than who writes it gets what both have in
// common, and zero values for the rest: JSON passes over fields that it does not know.
// A Validate method tells.
//
// A message has a header only where it says something: Content-Type for a codec
// that a receiver would not assume, Content-Encoding for a compressed payload,
// Nats-Msg-Id with MsgID, trace context with a tracer. So any NATS client can talk
// to a bus in JSON. The whole format is described in docs/wire.md.
//
// A type with a method Validate() error, on it or its pointer, has that called
// when a value is sent and when one is received.
//
// # Options
//
// Each call takes the options that make sense for it; others do not compile.
//
//	New           Option: WithStoreDir, WithSync, WithMaxStore, WithMaxMemory, WithMaxPayload, WithListen,
//	              WithServerOptions, WithURL, and all of the next two lines
//	Connect       ConnectOption: WithName, WithVersion, WithLogger, WithSlog, WithEvents, WithCodec, WithCodecFor,
//	              WithCompression, WithMiddleware, WithTimeout, WithDrainTimeout, WithAsyncBuffer, WithAsyncWindow,
//	              WithStrictPublish, WithHealthThresholds, WithTracerProvider, WithMeterProvider, WithPropagator, FromEnv
//	              AccessOption: WithTLS, WithUser, WithToken, WithCredentials, WithNKey
//	Publish…      PublishOption: As, WithHeader, MsgID
//	PublishTo…    StoreOption: As, WithHeader, MsgID, AutoID, TTL, ExpectLastSequence, ExpectLastSubjectSequence,
//	              ExpectLastSequenceOf; ItemOf has the same
//	Request       RequestOption: As, WithHeader
//	Subscribe     SubscribeOption: Concurrency, Use, HandlerTimeout, As, Queue, PendingLimits
//	Respond       RespondOption: the same
//	Bus.Stream    DeclareOption: AllowShrink; likewise Stream.Plan
//	Replay        ReplayOption: ReplayFromSequence, ReplayFromTime, ReplayFromLast, Follow, As
//	Redrive       RedriveOption: RedriveRate
//	RedriveAs     MessageOption: As, WithHeader
//	Consume…      ConsumeOption: Concurrency, Use, HandlerTimeout, As, Retry, AckWait, RateLimit, BatchSize, BatchWait,
//	              StartAtFirst, StartAtLast, StartAtNew, StartAtSequence, StartAtTime,
//	              KeyBySubject, KeyByToken, KeyByHeader, KeyBy, OnStuckKey
//
// Ready-made middleware for WithMiddleware and Use is in package middleware.
//
// # Tests
//
// Package bustest gives each test a bus of its own, started in milliseconds, in
// virtual time if wanted.
package bus
