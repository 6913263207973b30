package bus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

func TestPublishTo(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	one := declare(t, b, bus.StreamConfig{Name: "ONE", Subjects: []string{"a.*", "b.>"}})
	two := declare(t, b, bus.StreamConfig{Name: "TWO", Subjects: []string{"c"}})
	for i := range 50 {
		for j, s := range []bus.Subject[int]{"a.x", "b.y.z"} {
			ack, err := bus.PublishTo(t.Context(), one, s, i)
			must(t, err)
			if want := (bus.Ack{Stream: "ONE", Sequence: uint64(2*i + j + 1)}); *ack != want {
				t.Fatalf("got %+v, want %+v", *ack, want)
			}
		}
	}
	ack, err := bus.PublishTo(t.Context(), two, "c", 1)
	must(t, err)
	if want := (bus.Ack{Stream: "TWO", Sequence: 1}); *ack != want {
		t.Errorf("got %+v, want %+v", *ack, want)
	}
	mustHold(t, b, "ONE", 1, 100)
	mustHold(t, b, "TWO", 1, 1)
	if s := b.Stats(); s.Published != 101 || s.PublishFailed != 0 || s.Captured != 0 {
		t.Errorf("the statistics are %+v", s)
	}
}

// Publishers at the same time each get a sequence of their own, and their own
// messages keep their order.
func TestPublishToConcurrently(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	const publishers, each = 8, 100
	var seen sync.Map
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			last := uint64(0)
			for i := range each {
				ack, err := bus.PublishTo(t.Context(), st, bus.Subject[int]("s.*").At(fmt.Sprint(p)), i)
				if err != nil {
					t.Error(err)
					return
				}
				if _, twice := seen.LoadOrStore(ack.Sequence, p); twice || ack.Sequence <= last {
					t.Errorf("publisher %d got sequence %d after %d (given twice: %t)", p, ack.Sequence, last, twice)
				}
				last = ack.Sequence
			}
		})
	}
	wg.Wait()
	mustHold(t, b, "S", 1, publishers*each)
}

// A message with the ID of one in the window is stored once, whatever else it is.
func TestPublishToStoresAnIDOnce(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		short := declare(t, b, bus.StreamConfig{Name: "SHORT", Subjects: []string{"short.*"}, Duplicates: 10 * time.Second})
		usual := declare(t, b, bus.StreamConfig{Name: "USUAL", Subjects: []string{"usual"}})
		publish := func(st *bus.Stream, s bus.Subject[string], v, id string) bus.Ack {
			t.Helper()
			ack, err := bus.PublishTo(t.Context(), st, s, v, bus.MsgID(id))
			must(t, err)
			return *ack
		}
		want := func(got bus.Ack, stream string, seq uint64, duplicate bool) {
			t.Helper()
			if want := (bus.Ack{Stream: stream, Sequence: seq, Duplicate: duplicate}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
		want(publish(short, "short.a", "x", "1"), "SHORT", 1, false)
		want(publish(short, "short.a", "x", "2"), "SHORT", 2, false)
		want(publish(short, "short.a", "x", "1"), "SHORT", 1, true)
		want(publish(short, "short.b", "another", "2"), "SHORT", 2, true)
		want(publish(usual, "usual", "x", "1"), "USUAL", 1, false) // IDs are the stream's
		time.Sleep(9 * time.Second)
		want(publish(short, "short.a", "x", "1"), "SHORT", 1, true)
		time.Sleep(20 * time.Second) // a repetition does not make the window longer
		want(publish(short, "short.a", "x", "1"), "SHORT", 3, false)
		time.Sleep(80 * time.Second) // less than the two minutes of the default
		want(publish(usual, "usual", "x", "1"), "USUAL", 1, true)
		time.Sleep(3 * time.Minute)
		want(publish(usual, "usual", "x", "1"), "USUAL", 2, false)
		mustHold(t, b, "SHORT", 1, 3)
		mustHold(t, b, "USUAL", 1, 2)
	})
}

// What is refused is not stored.
func TestPublishToRefuses(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithMaxPayload(64<<10))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	declare(t, b, bus.StreamConfig{Name: "OTHER", Subjects: []string{"other"}})
	ctx := t.Context()
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	late, cancel := context.WithDeadline(ctx, time.Unix(1, 0))
	defer cancel()
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, st, "elsewhere", 1)), `"elsewhere"`, `stream "S" does not store it`, "it stores s.*")
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, st, "other", 1)), `stream "S" does not store it`)
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, st, "s.a.b", 1)), "does not store it")
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, st, "s", 1)), "does not store it")
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, st, "s.*", 1)), "wildcard")
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, st, "", 1)), "empty")
	asError[*bus.ValidationError](t, second(bus.PublishTo(ctx, st, "s.a", even(3))), "3 is odd")
	asError[*bus.CodecError](t, second(bus.PublishTo(ctx, st, "s.a", make(chan int))), "encode", "chan int")
	p := asError[*bus.PayloadError](t, second(bus.PublishTo(ctx, st, "s.a", make([]byte, 56<<10+1))), "57345 bytes", "limit is 57344", "WithMaxPayload")
	if p.Size != 56<<10+1 || p.Limit != 56<<10 || p.Subject != "s.a" {
		t.Errorf("got %+v", p)
	}
	asError[*bus.PayloadError](t, second(bus.PublishTo(ctx, st, "s.a", make([]byte, 56<<10), bus.WithHeader("X", "y")))) // headers count
	asError[*bus.OptionError](t, second(bus.PublishTo(ctx, st, "s.a", 1, bus.MsgID(""))), "MsgID")
	isError(t, second(bus.PublishTo(cancelled, st, "s.a", 1)), context.Canceled)
	isError(t, second(bus.PublishTo(late, st, "s.a", 1)), bus.ErrTimeout)
	if n := streamInfo(t, b, "S").State.Msgs + streamInfo(t, b, "OTHER").State.Msgs; n != 0 {
		t.Errorf("%d messages were stored", n)
	}
	ack, err := bus.PublishTo(ctx, st, "s.a", make([]byte, 56<<10)) // the limit itself fits
	if err != nil || ack.Sequence != 1 {
		t.Errorf("got %+v, %v", ack, err)
	}
	if s := b.Stats(); s.Published != 1 || s.PublishFailed != 11 {
		t.Errorf("published %d, failed %d; want 1, 11", s.Published, s.PublishFailed)
	}
}

// A stream that is gone is told as such, after the moment that an election may take.
func TestPublishToAStreamThatIsGone(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bus.StoreOption{"without an ID": nil, "with an ID": {bus.MsgID("1")}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				storeRange(t, st, "S", 0, 1)
				must(t, b.JetStream().DeleteStream(t.Context(), "S"))
				began := time.Now()
				_, err := bus.PublishTo(t.Context(), st, "S", 1, opts...)
				isError(t, err, bus.ErrStreamNotFound, `"S"`, "publish", "declare it with Bus.Stream")
				asError[*bus.StreamError](t, err)
				if took := time.Since(began); took < 400*time.Millisecond || took > time.Second {
					t.Errorf("it took %v", took)
				}
				// It may come back meanwhile.
				time.AfterFunc(250*time.Millisecond, func() { declare(t, b, bus.StreamConfig{Name: "S"}) })
				ack, err := bus.PublishTo(t.Context(), st, "S", 2, opts...)
				if err != nil || ack.Sequence != 1 {
					t.Errorf("got %+v, %v", ack, err)
				}
			})
		})
	}
}

// Nobody answers where a plain subscriber listens to a stream's old subject: then
// it is not known whether somebody stored the message.
func TestPublishToWhereOnlyASubscriberListens(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bus.StoreOption{"without an ID": nil, "with an ID": {bus.MsgID("1")}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				must(t, b.JetStream().DeleteStream(t.Context(), "S"))
				_, err := bus.Subscribe(b, "S", ignore[int])
				must(t, err)
				began := time.Now()
				_, err = bus.PublishTo(t.Context(), st, "S", 1, opts...)
				isError(t, err, bus.ErrUnknownOutcome, `"S"`)
				isError(t, err, context.DeadlineExceeded)
				if took := time.Since(began); took != time.Minute {
					t.Errorf("it took %v, want the bus's timeout", took)
				}
			}, bus.WithTimeout(time.Minute))
		})
	}
}

func TestPublishToSubjectsThatWereMoved(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "OLD", Subjects: []string{"s.>"}})
	must(t, b.JetStream().DeleteStream(t.Context(), "OLD"))
	declare(t, b, bus.StreamConfig{Name: "NEW", Subjects: []string{"s.>"}})
	_, err := bus.PublishTo(t.Context(), st, "s.a", 1)
	if e := asError[*bus.StreamError](t, err, `"OLD"`, `stream "NEW" stored the message`, "look the stream up again"); e.Stream != "OLD" {
		t.Errorf("got %+v", e)
	}
	// A responder's answer is no acknowledgement.
	must(t, b.JetStream().DeleteStream(t.Context(), "NEW"))
	_, err = bus.Respond(b, "s.a", double)
	must(t, err)
	_, err = bus.PublishTo(t.Context(), st, "s.a", 1)
	asError[*bus.StreamError](t, err, "not an acknowledgement")
}

// A responder on the subject of a stream may answer before the stream. Then nobody knows
// whether the message is stored.
func TestPublishToWhereAResponderAnswers(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithLogger(silent()))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	must(t, b.JetStream().DeleteStream(t.Context(), "S"))
	must(t, second(bus.Respond(b, "s.value", double)))
	must(t, second(bus.Respond(b, "s.error", func(context.Context, *bus.Msg[int]) (int, error) { return 0, bus.Public("404", "no such thing") })))
	for subj, text := range map[bus.Subject[int]]string{"s.value": "not an acknowledgement", "s.error": `the error "no such thing" of a responder`} {
		for _, opts := range [][]bus.StoreOption{nil, {bus.MsgID("1")}} {
			_, err := bus.PublishTo(t.Context(), st, subj, 1, opts...)
			isError(t, err, bus.ErrUnknownOutcome, text, "give it another subject", "MsgID")
			f, err := bus.PublishToAsync(t.Context(), st, subj, 1, opts...)
			must(t, err)
			_, err = f.Wait(t.Context())
			isError(t, err, bus.ErrUnknownOutcome, text)
		}
	}
}

// A full bus refuses soon and goes on when there is room.
func TestPublishToAFullBus(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		option bus.Option
		disk   bool
	}{
		{"memory", bus.WithMaxMemory(1 << 20), false},
		{"disk", bus.WithMaxStore(1 << 20), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			opts := []bus.Option{bus.WithLogger(silent()), tc.option}
			if tc.disk {
				opts = append(opts, bus.WithStoreDir(t.TempDir()))
			}
			b := bustest.New(t, opts...)
			st := declare(t, b, bus.StreamConfig{Name: "S"})
			payload := make([]byte, 64<<10)
			stored := uint64(0)
			var err error
			began := time.Now()
			for range 100 {
				if _, err = bus.PublishTo(t.Context(), st, "S", payload); err != nil {
					break
				}
				stored++
			}
			asError[*bus.StreamError](t, err, `"S"`, "publish", "resource limits exceeded", "raise the limit")
			for range 3 {
				asError[*bus.StreamError](t, second(bus.PublishTo(t.Context(), st, "S", payload, bus.MsgID("x"))))
			}
			if took := time.Since(began); stored < 14 || stored > 18 || took > 5*time.Second {
				t.Errorf("%d MiB/16 were stored, in %v", stored, took)
			}
			mustHold(t, b, "S", 1, stored)
			server, err := b.JetStream().Stream(t.Context(), "S")
			must(t, err)
			must(t, server.Purge(t.Context()))
			ack, err := bus.PublishTo(t.Context(), st, "S", payload)
			if err != nil || ack.Sequence != stored+1 {
				t.Errorf("after the purge: got %+v, %v", ack, err)
			}
		})
	}
}

// relay passes the bytes between one address of its own and a server, until a
// test wants answers to get lost or the connections to break.
type relay struct {
	listener net.Listener
	deaf     atomic.Bool                         // what the server says is thrown away
	rewrite  atomic.Pointer[func([]byte) []byte] // what is made of it; nil: nothing
	mute     atomic.Bool                         // what clients say is thrown away
	dropped  atomic.Int64                        // bytes of that
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string
	conns  []net.Conn
	down   bool // who comes is turned away
}

func newRelay(t *testing.T, target string) *relay {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	r := &relay{listener: l, target: strings.TrimPrefix(target, "nats://")}
	r.wg.Go(r.serve)
	t.Cleanup(func() {
		_ = l.Close()
		r.cut(true)
		r.wg.Wait()
	})
	return r
}

func (r *relay) url() string { return "nats://" + r.listener.Addr().String() }

func (r *relay) serve() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		target := r.target
		r.mu.Unlock()
		srv, err := net.Dial("tcp", target)
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		if r.down {
			_ = errors.Join(client.Close(), srv.Close())
		}
		r.conns = append(r.conns, client, srv)
		r.mu.Unlock()
		r.wg.Go(func() { _, _ = io.Copy(mute{srv, r}, client); _ = srv.Close() })
		r.wg.Go(func() { _, _ = io.Copy(earless{client, r}, srv); _ = client.Close() })
	}
}

// earless drops what is written while its relay is deaf.
type earless struct {
	net.Conn
	relay *relay
}

func (e earless) Write(p []byte) (int, error) {
	if e.relay.deaf.Load() {
		return len(p), nil
	}
	out := p
	if rewrite := e.relay.rewrite.Load(); rewrite != nil {
		out = (*rewrite)(p)
	}
	_, err := e.Conn.Write(out)
	return len(p), err
}

// mute drops what is written while its relay is mute.
type mute struct {
	net.Conn
	relay *relay
}

func (m mute) Write(p []byte) (int, error) {
	if m.relay.mute.Load() {
		m.relay.dropped.Add(int64(len(p)))
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// ReadFrom hides the one of the connection, which would write past Write.
func (m mute) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{m}, r)
}

// ReadFrom hides the one of the connection, which would write past Write.
func (e earless) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{e}, r)
}

// cut breaks the connections; down says whether new ones are turned away.
func (r *relay) cut(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
}

// redirect has new connections lead to another server.
func (r *relay) redirect(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target, r.down = strings.TrimPrefix(target, "nats://"), false
}

// withAndWithoutID are the two ways in which PublishTo stores a message.
var withAndWithoutID = map[string][]bus.StoreOption{"without an ID": nil, "with an ID": {bus.MsgID("1")}}

// When the answer is lost with the connection, a message without an ID may be
// stored or not, and one with an ID is sent again until that is known.
func TestPublishToWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	for name, opts := range withAndWithoutID {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, home, r, events := remote(t, bus.WithTimeout(3*time.Second))
			st := declare(t, b, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage})
			type result struct {
				ack *bus.Ack
				err error
			}
			results := make(chan result, 1)
			r.deaf.Store(true)
			go func() {
				ack, err := bus.PublishTo(t.Context(), st, "S", 1, opts...)
				results <- result{ack, err}
			}()
			eventually(t, "the message is stored", func() bool { return streamInfo(t, home, "S").State.Msgs == 1 })
			r.cut(false)
			r.deaf.Store(false)
			got := receive(t, results)
			awaitEvent(t, events, event.Disconnected)
			if opts == nil {
				isError(t, got.err, bus.ErrUnknownOutcome, `"S"`, "publish")
				asError[*bus.StreamError](t, got.err)
			} else if got.err != nil || *got.ack != (bus.Ack{Stream: "S", Sequence: 1, Duplicate: true}) {
				t.Errorf("got %+v, %v", got.ack, got.err)
			}
			mustHold(t, home, "S", 1, 1)
		})
	}
}

// The context ends the wait for an answer, and the outcome stays unknown.
func TestPublishToIsGivenUp(t *testing.T) {
	t.Parallel()
	b, home, r, _ := remote(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage})
	r.deaf.Store(true)
	for i, opts := range [][]bus.StoreOption{nil, {bus.MsgID("1")}} {
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- second(bus.PublishTo(ctx, st, "S", 1, opts...)) }()
		eventually(t, "the message is stored", func() bool { return streamInfo(t, home, "S").State.Msgs == uint64(i+1) })
		cancel()
		err := receive(t, result)
		isError(t, err, bus.ErrUnknownOutcome)
		isError(t, err, context.Canceled)
		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		err = second(bus.PublishTo(ctx, st, "S", 1, bus.MsgID("2")))
		cancel()
		isError(t, err, bus.ErrUnknownOutcome)
		isError(t, err, context.DeadlineExceeded)
		if i == 0 { // the second time it is a duplicate
			eventually(t, "this one is stored, too", func() bool { return streamInfo(t, home, "S").State.Msgs == 2 })
		}
		must(t, purge(t, home, "S", i+1))
	}
	r.deaf.Store(false)
}

// purge removes all but the last keep messages of a stream.
func purge(t *testing.T, b *bus.Bus, name string, keep int) error {
	t.Helper()
	st, err := b.JetStream().Stream(t.Context(), name)
	must(t, err)
	return st.Purge(t.Context(), jetstream.WithPurgeKeep(uint64(keep)))
}

// While the server is away a message with an ID waits for it; all end when they
// must.
func TestPublishToWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	b, home, r, events := remote(t, bus.WithTimeout(20*time.Second))
	st := declare(t, b, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage})
	r.cut(true)
	awaitEvent(t, events, event.Disconnected)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := second(bus.PublishTo(ctx, st, "S", 1))
	isError(t, err, bus.ErrUnknownOutcome) // it is in the buffer of the connection
	isError(t, err, context.DeadlineExceeded)
	acks := make(chan *bus.Ack, 1)
	go func() {
		ack, err := bus.PublishTo(t.Context(), st, "S", 2, bus.MsgID("2"))
		if err != nil {
			t.Error(err)
		}
		acks <- ack
	}()
	r.cut(false)
	awaitEvent(t, events, event.Reconnected)
	if ack := receive(t, acks); ack == nil || ack.Stream != "S" {
		t.Errorf("got %+v", ack)
	}
	if s := streamInfo(t, home, "S").State; s.Msgs > 2 {
		t.Errorf("%d messages are stored", s.Msgs)
	}
}

// A server that stops and does not come back ends a call with its context, and
// Close ends it at once.
func TestPublishToAServerThatStops(t *testing.T) {
	t.Parallel()
	for name, opts := range withAndWithoutID {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := external(t, nil)
			b, err := bus.Connect(t.Context(), s.ClientURL(), bus.WithLogger(silent()), bus.WithDrainTimeout(500*time.Millisecond))
			must(t, err)
			st := declare(t, b, bus.StreamConfig{Name: "S"})
			s.Shutdown()
			s.WaitForShutdown()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			isError(t, second(bus.PublishTo(ctx, st, "S", 1, opts...)), bus.ErrUnknownOutcome)
			result := make(chan error, 1)
			ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			go func() { result <- second(bus.PublishTo(ctx, st, "S", 1, opts...)) }()
			_ = b.Close() // what the connection had buffered is lost, and it says so
			if err := receive(t, result); !errors.Is(err, bus.ErrUnknownOutcome) && !errors.Is(err, bus.ErrClosed) {
				t.Errorf("got %v", err)
			}
		})
	}
}
