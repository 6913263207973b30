package bus_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/codec"
)

// batchStream is a stream that takes batches.
func batchStream(t testing.TB, b *bus.Bus) *bus.Stream {
	t.Helper()
	return declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, AtomicBatches: true})
}

// numbers are n items with the values 0 to n-1.
func numbers(n int, opts ...bus.StoreOption) []bus.Item {
	var items []bus.Item
	for i := range n {
		items = append(items, bus.ItemOf("s.a", i, opts...))
	}
	return items
}

func TestPublishToBatch(t *testing.T) {
	t.Parallel()
	for _, disk := range []bool{false, true} {
		t.Run(fmt.Sprintf("disk=%v", disk), func(t *testing.T) {
			t.Parallel()
			var opts []bus.Option
			if disk {
				opts = append(opts, bus.WithStoreDir(t.TempDir()))
			}
			b := bustest.New(t, opts...)
			st := batchStream(t, b)
			storeRange(t, st, "s.a", 0, 1)
			ack, err := bus.PublishToBatch(t.Context(), st,
				bus.ItemOf("s.a", order{ID: "1"}), bus.ItemOf("s.b", "text", bus.As(codec.Text)), bus.ItemOf("s.a", []byte{1, 2}))
			if err != nil || *ack != (bus.Ack{Stream: "S", First: 2, Sequence: 4}) {
				t.Fatalf("got %+v, %v", ack, err)
			}
			ack, err = bus.PublishToBatch(t.Context(), st, bus.ItemOf("s.a", 7))
			if err != nil || *ack != (bus.Ack{Stream: "S", First: 5, Sequence: 5}) {
				t.Fatalf("got %+v, %v", ack, err)
			}
			ack, err = bus.PublishToBatch(t.Context(), st, numbers(1000)...)
			if err != nil || *ack != (bus.Ack{Stream: "S", First: 6, Sequence: 1005}) {
				t.Fatalf("got %+v, %v", ack, err)
			}
			data := messagesOf(t, b, "S")
			if !strings.Contains(data[2], `"1"`) || data[3] != "text" || data[4] != "\x01\x02" || data[5] != "7" || data[1005] != "999" {
				t.Errorf("stored %q %q %q %q %q", data[2], data[3], data[4], data[5], data[1005])
			}
			if s := b.Stats(); s.Published != 1005 || s.PublishFailed != 0 {
				t.Errorf("published %d, failed %d", s.Published, s.PublishFailed)
			}
		})
	}
}

// Items may be used again, and a batch stays together whatever else is published.
func TestPublishToBatchIsNotMixed(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := batchStream(t, b)
	items := []bus.Item{bus.ItemOf("s.a", "first"), bus.ItemOf("s.b", "second"), bus.ItemOf("s.a", "third")}
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() {
			for range 5 {
				ack, err := bus.PublishToBatch(t.Context(), st, items...)
				if err != nil || ack.Sequence != ack.First+2 {
					t.Errorf("got %+v, %v", ack, err)
				}
				must(t, second(bus.PublishTo(t.Context(), st, "s.c", "alone")))
			}
		})
	}
	wg.Wait()
	data := messagesOf(t, b, "S")
	var got []string
	for seq := range uint64(len(data)) {
		if text := data[seq+1]; text != `"alone"` {
			got = append(got, text)
			continue
		}
		if len(got)%3 != 0 {
			t.Fatalf("%d is within a batch", seq+1)
		}
	}
	for part := range slices.Chunk(got, 3) {
		if strings.Join(part, " ") != `"first" "second" "third"` {
			t.Fatalf("got %v", part)
		}
	}
	if len(data) != 60*5*4 {
		t.Errorf("%d messages", len(data))
	}
}

// What is wrong with any item is found before anything is sent.
func TestPublishToBatchRefuses(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort(), bus.WithMaxPayload(64<<10))
	st := batchStream(t, b)
	declare(t, b, bus.StreamConfig{Name: "OTHER", Subjects: []string{"other"}})
	sent := sentOn(t, b, "s.*")
	ctx := t.Context()
	good := bus.ItemOf("s.a", 1)
	batch := func(items ...bus.Item) error { return second(bus.PublishToBatch(ctx, st, items...)) }
	if e := asError[*bus.OptionError](t, batch(), "empty", "1 to 1000"); e.Option != "PublishToBatch" {
		t.Errorf("got %+v", e)
	}
	if e := asError[*bus.OptionError](t, batch(numbers(1001)...), "1001 items", "the limit is 1000"); e.Option != "PublishToBatch" {
		t.Errorf("got %+v", e)
	}
	for _, tc := range []struct {
		name string
		item bus.Item
		is   func(testing.TB, error)
	}{
		{"no item", bus.Item{}, func(t testing.TB, err error) { asError[*bus.OptionError](t, err, "make it with ItemOf") }},
		{"of another stream", bus.ItemOf("other", 1), func(t testing.TB, err error) {
			asError[*bus.SubjectError](t, err, `stream "S" does not store it`, "it stores s.*")
		}},
		{"with a wildcard", bus.ItemOf("s.*", 1), func(t testing.TB, err error) { asError[*bus.SubjectError](t, err, "wildcard") }},
		{"too large", bus.ItemOf("s.a", make([]byte, 60<<10)), func(t testing.TB, err error) { asError[*bus.PayloadError](t, err) }},
		{"invalid", bus.ItemOf("s.a", even(3)), func(t testing.TB, err error) { asError[*bus.ValidationError](t, err) }},
		{"not encodable", bus.ItemOf("s.a", make(chan int)), func(t testing.TB, err error) { asError[*bus.CodecError](t, err) }},
		{"a bad option", bus.ItemOf("s.a", 1, bus.TTL(time.Millisecond)), func(t testing.TB, err error) { asError[*bus.OptionError](t, err, "TTL") }},
		{"an ID twice", bus.ItemOf("s.b", 1, bus.MsgID("first")), func(t testing.TB, err error) {
			if e := asError[*bus.ConflictError](t, err, "two items have the MsgID", "first"); e.MsgID != "first" || e.Actual != 0 {
				t.Errorf("got %+v", e)
			}
		}},
		{"expecting the last of the stream", bus.ItemOf("s.b", 1, bus.ExpectLastSequence(0)), func(t testing.TB, err error) {
			asError[*bus.OptionError](t, err, "ExpectLastSequence(0)", "only the first item")
		}},
		{"expecting what the batch changes", bus.ItemOf("s.a", 1, bus.ExpectLastSubjectSequence(0)), func(t testing.TB, err error) {
			asError[*bus.OptionError](t, err, `an earlier item is published to "s.a"`)
		}},
		{"expecting what the batch changes, by filter", bus.ItemOf("s.b", 1, bus.ExpectLastSequenceOf("s.a", 0)), func(t testing.TB, err error) {
			asError[*bus.OptionError](t, err, `an earlier item is published to "s.a"`)
		}},
	} {
		err := batch(bus.ItemOf("s.a", 1, bus.MsgID("first")), good, tc.item, good)
		if e := asError[*bus.ItemError](t, err, "PublishToBatch: item 2: "); e.Index != 2 {
			t.Errorf("%s: got %+v", tc.name, e)
		}
		tc.is(t, err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	isError(t, second(bus.PublishToBatch(cancelled, st, good)), context.Canceled)
	asError[*bus.OptionError](t, second(bus.PublishToBatch(ctx, nil, good)), "stream")
	asError[*bus.OptionError](t, second(bus.PublishToBatch(nil, st, good)), "ctx") //nolint:staticcheck // SA1012: what happens then
	mustBeEmpty(t, b, "S")
	if len(sent) > 0 {
		t.Errorf("%d messages were sent", len(sent))
	}
	if s := b.Stats(); s.Published != 0 || s.PublishFailed != 1001+11*4 {
		t.Errorf("published %d, failed %d", s.Published, s.PublishFailed)
	}
	must(t, b.Close())
	isError(t, batch(good), bus.ErrClosed)
}

// Whatever the server refuses, nothing of the batch is stored.
func TestPublishToBatchThatTheServerRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		like  func(*jetstream.StreamConfig)
		items []bus.Item
		is    func(testing.TB, error)
	}{
		{"not declared for batches", func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }, numbers(3), func(t testing.TB, err error) {
			if e := asError[*bus.UnsupportedError](t, err, "without AtomicBatches"); !slices.Equal(e.Fields, []string{"AtomicBatches"}) {
				t.Errorf("got %+v", e)
			}
		}},
		{"not declared for TTL", nil, append(numbers(2), bus.ItemOf("s.a", 1, bus.TTL(time.Second))), func(t testing.TB, err error) {
			asError[*bus.UnsupportedError](t, err, "without MessageTTL")
		}},
		{"another last sequence of the stream", nil, append([]bus.Item{bus.ItemOf("s.b", 0, bus.ExpectLastSequence(1))}, numbers(3)...), conflictOf(0, bus.ConflictError{Expected: 1, Actual: 2})},
		{"another last sequence of a subject", nil, []bus.Item{
			bus.ItemOf("s.c", 0, bus.ExpectLastSubjectSequence(0)), bus.ItemOf("s.b", 0), bus.ItemOf("s.a", 0, bus.ExpectLastSubjectSequence(1)),
		}, conflictOf(2, bus.ConflictError{Subject: "s.a", Expected: 1, Actual: 2})},
		{"another last sequence of a filter", nil, []bus.Item{
			bus.ItemOf("s.c", 0, bus.ExpectLastSubjectSequence(0)), bus.ItemOf("s.b", 0, bus.ExpectLastSequenceOf("s.>", 0)),
		}, conflictOf(1, bus.ConflictError{Subject: "s.>", Expected: 0, Actual: 2})},
		{"an ID that is known", nil, append(numbers(3, bus.AutoID()), bus.ItemOf("s.a", 1, bus.MsgID("known"))), func(t testing.TB, err error) {
			if e := asError[*bus.ConflictError](t, err, `message 2 has the MsgID "known" already`); e.Actual != 2 {
				t.Errorf("got %+v", e)
			}
			if e := asError[*bus.ItemError](t, err); e.Index != 3 {
				t.Errorf("got %+v", e)
			}
		}},
		{"a full stream", func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = 3, jetstream.DiscardNew }, numbers(2), func(t testing.TB, err error) {
			if e := asError[*bus.StreamError](t, err, "maximum messages exceeded"); e.ErrorCode != 10077 {
				t.Errorf("got %+v", e)
			}
		}},
		{"a large item in the middle", func(c *jetstream.StreamConfig) { c.MaxMsgSize = 200 }, []bus.Item{
			bus.ItemOf("s.a", 1), bus.ItemOf("s.a", make([]byte, 300)), bus.ItemOf("s.a", 1),
		}, func(t testing.TB, err error) {
			asError[*bus.PayloadError](t, err, "the limit is 200")
			if e := asError[*bus.ItemError](t, err); e.Index != 1 {
				t.Errorf("got %+v", e)
			}
		}},
		{"deleted", func(c *jetstream.StreamConfig) { c.Name = "" }, numbers(2), func(t testing.TB, err error) { isError(t, err, bus.ErrStreamNotFound) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			c := jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Storage: jetstream.MemoryStorage, AllowAtomicPublish: true}
			if tc.like != nil {
				tc.like(&c)
			}
			gone := c.Name == ""
			c.Name = "S"
			must(t, second(b.JetStream().CreateStream(t.Context(), c)))
			st, err := b.LookupStream(t.Context(), "S")
			must(t, err)
			storeRange(t, st, "s.a", 0, 1)
			must(t, second(bus.PublishTo(t.Context(), st, "s.a", 1, bus.MsgID("known"))))
			if gone {
				must(t, b.JetStream().DeleteStream(t.Context(), "S"))
			}
			tc.is(t, second(bus.PublishToBatch(t.Context(), st, tc.items...)))
			if !gone {
				mustHold(t, b, "S", 1, 2)
			}
		})
	}
}

func conflictOf(index int, want bus.ConflictError) func(testing.TB, error) {
	return func(t testing.TB, err error) {
		t.Helper()
		e := asError[*bus.ConflictError](t, err, "nothing was stored")
		if e.Stream != "S" || e.Subject != want.Subject || e.Expected != want.Expected || e.Actual != want.Actual {
			t.Errorf("got %+v", e)
		}
		if i := asError[*bus.ItemError](t, err); i.Index != index {
			t.Errorf("got %+v", i)
		}
	}
}

// The flags of a stream go on and stay on.
func TestStreamFlags(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	flags := func(batches, ttl bool) {
		t.Helper()
		declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, AtomicBatches: batches, MessageTTL: ttl})
	}
	want := func(batches, ttl bool) {
		t.Helper()
		if c := streamInfo(t, b, "S").Config; c.AllowAtomicPublish != batches || c.AllowMsgTTL != ttl {
			t.Errorf("batches %v, TTL %v", c.AllowAtomicPublish, c.AllowMsgTTL)
		}
	}
	flags(false, false)
	want(false, false)
	flags(true, false)
	want(true, false)
	flags(false, true)
	want(true, true)
	flags(false, false)
	want(true, true)
}

// The same batch again is a duplicate; another one with one of its IDs is not.
func TestPublishToBatchAgain(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := batchStream(t, b)
	batch := func(ids ...string) (*bus.Ack, error) {
		var items []bus.Item
		for i, id := range ids {
			opts := []bus.StoreOption{bus.MsgID(id)}
			if id == "" {
				opts = nil
			}
			items = append(items, bus.ItemOf("s.a", i, opts...))
		}
		return bus.PublishToBatch(t.Context(), st, items...)
	}
	want := func(first, last uint64, duplicate bool, ids ...string) {
		t.Helper()
		if ack, err := batch(ids...); err != nil || *ack != (bus.Ack{Stream: "S", First: first, Sequence: last, Duplicate: duplicate}) {
			t.Errorf("%q: got %+v, %v", ids, ack, err)
		}
	}
	known := func(sequence uint64, ids ...string) {
		t.Helper()
		if e := asError[*bus.ConflictError](t, second(batch(ids...))); e.Actual != sequence || e.MsgID == "" {
			t.Errorf("%q: got %+v", ids, e)
		}
	}
	storeRange(t, st, "s.b", 0, 1)
	want(2, 4, false, "", "1", "")
	storeRange(t, st, "s.b", 0, 1)
	want(2, 4, true, "", "1", "")
	known(3, "1", "", "")     // at another place
	known(3, "", "1")         // fewer
	known(3, "", "1", "", "") // more
	known(3, "1")
	must(t, second(bus.PublishTo(t.Context(), st, "s.a", 1, bus.MsgID("single"))))
	known(6, "single")
	known(6, "single", "")
	want(7, 7, false, "2")
	want(7, 7, true, "2")
	mustHold(t, b, "S", 1, 7)
}

// When the answer to the whole batch is lost, one with an ID is sent again until the
// outcome is known.
func TestPublishToBatchWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		items []bus.Item
		known bool
	}{
		{"without an ID", numbers(3), false},
		{"with an ID", append(numbers(2), bus.ItemOf("s.b", 1, bus.MsgID("1"))), true},
		{"with an ID and an expectation", []bus.Item{bus.ItemOf("s.a", 1, bus.ExpectLastSequence(0)), bus.ItemOf("s.b", 1, bus.AutoID()), bus.ItemOf("s.b", 1)}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b, home, r, _ := remote(t)
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Storage: bus.MemoryStorage, AtomicBatches: true})
			r.deaf.Store(true)
			type result struct {
				ack *bus.Ack
				err error
			}
			results := make(chan result, 1)
			go func() {
				ack, err := bus.PublishToBatch(t.Context(), st, tc.items...)
				results <- result{ack, err}
			}()
			eventually(t, "the batch is stored", func() bool { return streamInfo(t, home, "S").State.Msgs == 3 })
			r.cut(false)
			r.deaf.Store(false)
			got := receive(t, results)
			if !tc.known {
				isError(t, got.err, bus.ErrUnknownOutcome, `"S"`, "publish", "MsgID or AutoID")
			} else if got.err != nil || *got.ack != (bus.Ack{Stream: "S", First: 1, Sequence: 3, Duplicate: true}) {
				t.Errorf("got %+v, %v", got.ack, got.err)
			}
			mustHold(t, home, "S", 1, 3)
		})
	}
}

// A batch that is cut in two by a lost connection is sent again as a whole, with or
// without an ID: the part without an end is worth nothing.
func TestPublishToBatchInPieces(t *testing.T) {
	t.Parallel()
	b, home, r, _ := remote(t, bus.WithTimeout(time.Minute))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Storage: bus.MemoryStorage, AtomicBatches: true})
	nc, n := rawClient(t, home), 0
	must(t, second(nc.Subscribe("s.a", func(*nats.Msg) {
		if n++; n%1500 == 700 {
			r.cut(false)
		}
	})))
	flushRaw(t, nc)
	stored := uint64(0)
	for range 2 {
		ack, err := bus.PublishToBatch(t.Context(), st, numbers(1000, bus.AutoID())...)
		must(t, err)
		stored += 1000
		if ack.First != stored-999 || ack.Sequence != stored {
			t.Errorf("got %+v, want up to %d", ack, stored)
		}
	}
	mustHold(t, home, "S", 1, stored)
}

// Nobody answers: the context ends the wait.
func TestPublishToBatchIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bus.StoreOption{"without an ID": nil, "with an ID": {bus.AutoID()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := batchStream(t, b)
				must(t, b.JetStream().DeleteStream(t.Context(), "S"))
				tries := make(chan *nats.Msg, 100)
				sub, err := b.Conn().ChanSubscribe("s.a", tries)
				must(t, err)
				defer func() { must(t, sub.Unsubscribe()) }()
				began := time.Now()
				err = second(bus.PublishToBatch(t.Context(), st, numbers(2, opts...)...))
				isError(t, err, bus.ErrUnknownOutcome)
				isError(t, err, context.DeadlineExceeded)
				if took := time.Since(began); took != 10*time.Second {
					t.Errorf("it took %v", took)
				}
				if n := len(tries); opts == nil && n != 2 || opts != nil && n < 8 {
					t.Errorf("%d messages were sent", n)
				}
			}, bus.WithTimeout(10*time.Second))
		})
	}
}
