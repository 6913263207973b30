package bus_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// hasStreams fails the test unless the server has exactly those.
func hasStreams(t *testing.T, b *bus.Bus, names ...string) {
	t.Helper()
	has := make(map[string]bool)
	list := b.JetStream().StreamNames(t.Context())
	for name := range list.Name() {
		has[name] = true
	}
	must(t, list.Err())
	for _, name := range names {
		if !has[name] {
			t.Errorf("stream %s is gone", name)
		}
		delete(has, name)
	}
	if len(has) > 0 {
		t.Errorf("there are also %v", has)
	}
}

// A stream that is deleted while the server still removes the files of an earlier one of its name
// is gone all the same: its messages do not come back with the next one, and the directory can
// be opened again.
func TestStreamDeleteWhileAnEarlierOneIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openOn(t, dir)
	c := bus.StreamConfig{Name: "S", Subjects: []string{"s"}}
	for _, remove := range []func(*bus.Stream) error{
		func(st *bus.Stream) error { return st.Delete(t.Context()) },
		func(st *bus.Stream) error { return b.JetStream().DeleteStream(t.Context(), st.Name()) },
	} {
		st := declare(t, b, c)
		mustBeEmpty(t, b, "S")
		storeRange(t, st, "s", 0, 3)
		streams := filepath.Join(dir, "data", "jetstream", "$G", "streams")
		must(t, os.MkdirAll(filepath.Join(streams, ".S", "msgs"), 0o700)) // as of a removal under way
		must(t, remove(st))
		if _, err := os.Stat(filepath.Join(streams, "S")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the folder of the stream: %v", err)
		}
	}
	declare(t, b, c)
	mustBeEmpty(t, b, "S")
	for _, name := range []string{"", ".", "..", "../S", `..\S`, "S/.."} {
		if err := b.JetStream().DeleteStream(t.Context(), name); err == nil {
			t.Errorf("%q was deleted", name)
		}
	}
	must(t, b.Close())
	if _, err := openOn(t, dir).LookupStream(t.Context(), "S"); err != nil {
		t.Error(err)
	}
}

// With a stream goes what lies beside it, and nothing else.
func TestStreamDelete(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		ctx := t.Context()
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		declare(t, b, bus.StreamConfig{Name: "T"})
		storeRange(t, st, "S", 0, 10)
		con, err := bus.Consume(ctx, st, "c", "S", func(context.Context, *bus.Msg[int]) error { return bus.Permanent(errors.New("no")) })
		must(t, err)
		time.Sleep(time.Second)
		hasStreams(t, b, "S", "S-dead", "S-retry", "T")
		must(t, st.Delete(ctx))
		hasStreams(t, b, "T")
		receive(t, con.Done())
		asError[*bus.StreamError](t, con.Err(), `"S"`)
		isError(t, st.Delete(ctx), bus.ErrStreamNotFound, "delete")
		isError(t, second(st.Purge(ctx, bus.PurgeFilter{})), bus.ErrStreamNotFound, "purge")
		asError[*bus.StreamError](t, st.DeleteConsumer(ctx, "c"), `delete consumer "c"`)
		// A subject that nobody stores any more is as good as any.
		must(t, bus.Publish(ctx, b, "S", 1))
		if n := b.Stats().Captured; n != 0 {
			t.Errorf("%d messages were taken for stored", n)
		}
	})
}

// A delete that was cut short is finished by the next, and a stream of the program's
// that has the name of one beside it stays.
func TestStreamDeleteGoesOn(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	ctx := t.Context()
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	con, err := bus.Consume(ctx, st, "c", "S", ignore[int])
	must(t, err)
	must(t, con.Drain(ctx))
	must(t, b.JetStream().DeleteStream(ctx, "S"))
	must(t, st.Delete(ctx))
	hasStreams(t, b)
	st = declare(t, b, bus.StreamConfig{Name: "S"})
	declare(t, b, bus.StreamConfig{Name: "S-dead", Subjects: []string{"mine"}})
	must(t, st.Delete(ctx))
	hasStreams(t, b, "S-dead")
}

func TestStreamPurge(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		filter bus.PurgeFilter
		purged int
		left   []uint64
	}{
		{"all", bus.PurgeFilter{}, 10, nil},
		{"a subject", bus.PurgeFilter{Subject: "s.a"}, 5, []uint64{2, 4, 6, 8, 10}},
		{"a pattern", bus.PurgeFilter{Subject: "s.*"}, 10, nil},
		{"no such subject", bus.PurgeFilter{Subject: "x"}, 0, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		{"before", bus.PurgeFilter{Before: 8}, 7, []uint64{8, 9, 10}},
		{"before the first", bus.PurgeFilter{Before: 1}, 0, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		{"before the end", bus.PurgeFilter{Before: 99}, 10, nil},
		{"but for some", bus.PurgeFilter{Keep: 2}, 8, []uint64{9, 10}},
		{"but for more than there are", bus.PurgeFilter{Keep: 20}, 0, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		{"a subject before", bus.PurgeFilter{Subject: "s.a", Before: 6}, 3, []uint64{2, 4, 6, 7, 8, 9, 10}},
		{"a subject but for some", bus.PurgeFilter{Subject: "s.b", Keep: 1}, 4, []uint64{1, 3, 5, 7, 9, 10}},
	} {
		for disk, opts := range map[string][]bus.Option{"memory": nil, "disk": {bus.WithStoreDir(t.TempDir()), bus.WithSync(bus.SyncEvery(time.Hour)), bus.WithLogger(silent())}} {
			t.Run(tc.name+"/"+disk, func(t *testing.T) {
				b := bustest.New(t, opts...)
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				for i := range 5 {
					storeRange(t, st, "s.a", i, i+1)
					storeRange(t, st, "s.b", i, i+1)
				}
				n, err := st.Purge(t.Context(), tc.filter)
				must(t, err)
				if n != tc.purged {
					t.Errorf("purged %d, want %d", n, tc.purged)
				}
				info := streamInfo(t, b, "S").State
				if int(info.Msgs) != len(tc.left) || info.LastSeq != 10 {
					t.Errorf("got %+v, want %v", info, tc.left)
				}
				js, err := b.JetStream().Stream(t.Context(), "S")
				must(t, err)
				for _, sequence := range tc.left {
					must(t, second(js.GetMsg(t.Context(), sequence)))
				}
				must(t, b.Close()) // the next one may use the directory
			})
		}
	}
}

func TestStreamPurgeRefuses(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	ctx := t.Context()
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	storeRange(t, st, "S", 0, 3)
	asError[*bus.OptionError](t, second(st.Purge(ctx, bus.PurgeFilter{Keep: -1})), "Keep", "negative")
	asError[*bus.OptionError](t, second(st.Purge(ctx, bus.PurgeFilter{Keep: 1, Before: 2})), "leave one of the two out")
	asError[*bus.SubjectError](t, second(st.Purge(ctx, bus.PurgeFilter{Subject: "a..b"})))
	var none *bus.Stream
	asError[*bus.OptionError](t, second(none.Purge(ctx, bus.PurgeFilter{})), "stream is nil")
	asError[*bus.OptionError](t, none.Delete(ctx), "stream is nil")
	asError[*bus.OptionError](t, none.DeleteConsumer(ctx, "c"), "stream is nil")
	asError[*bus.OptionError](t, st.DeleteConsumer(ctx, "a b"), "DeleteConsumer durable")
	asError[*bus.OptionError](t, st.DeleteConsumer(ctx, ""), "DeleteConsumer durable")
	declare(t, b, bus.StreamConfig{Name: "S", Raw: func(c *jetstream.StreamConfig) { c.DenyPurge = true }})
	e := asError[*bus.StreamError](t, second(st.Purge(ctx, bus.PurgeFilter{})), "purge", "not permitted")
	if e.Code != 500 && e.Code != 400 && e.Code != 403 || e.ErrorCode == 0 {
		t.Errorf("got %+v", e)
	}
	mustHold(t, b, "S", 1, 3)
	must(t, b.Close())
	isError(t, st.Delete(ctx), bus.ErrClosed)
	isError(t, second(st.Purge(ctx, bus.PurgeFilter{})), bus.ErrClosed)
	isError(t, st.DeleteConsumer(ctx, "c"), bus.ErrClosed)
}

// A consumer goes with its retries; those of another one and the dead letters stay.
func TestStreamDeleteConsumer(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		ctx := t.Context()
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		var all []*bus.Consumer
		for _, durable := range []string{"a", "b"} {
			con, err := bus.Consume(ctx, st, durable, "S", func(_ context.Context, m *bus.Msg[int]) error {
				if m.Data == 0 {
					return bus.Permanent(errors.New("never"))
				}
				return bus.RetryAfter(time.Hour, errors.New("later"))
			})
			must(t, err)
			all = append(all, con)
		}
		storeRange(t, st, "S", 0, 5)
		time.Sleep(time.Minute)
		for _, con := range all {
			must(t, con.Drain(ctx))
		}
		if n := streamInfo(t, b, "S-retry").State.Msgs; n != 8 {
			t.Fatalf("%d messages wait for another attempt, want 8", n)
		}
		must(t, st.DeleteConsumer(ctx, "a"))
		if n := streamInfo(t, b, "S-retry").State.Msgs; n != 4 {
			t.Errorf("%d messages wait for another attempt, want 4", n)
		}
		for _, stream := range []string{"S", "S-retry"} {
			_, err := b.JetStream().Consumer(ctx, stream, "a")
			isError(t, err, jetstream.ErrConsumerNotFound)
			_, err = b.JetStream().Consumer(ctx, stream, "b")
			must(t, err)
		}
		letters := 0
		for l, err := range st.DeadLetters(ctx, bus.DeadFilter{}) {
			must(t, err)
			if l.Durable == "a" || l.Durable == "b" {
				letters++
			}
		}
		if letters != 2 {
			t.Errorf("%d dead letters, want 2", letters)
		}
		e := asError[*bus.StreamError](t, st.DeleteConsumer(ctx, "a"), `delete consumer "a"`)
		if e.Code != 404 {
			t.Errorf("got %+v", e)
		}
		// It begins anew, with all that is stored.
		got := make(chan int, 10)
		_, err := bus.Consume(ctx, st, "a", "S", func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil })
		must(t, err)
		for i := range 5 {
			if n := receive(t, got); n != i {
				t.Errorf("got %d, want %d", n, i)
			}
		}
	})
}

// Marks of messages that ended the process of a durable are not those of the next one
// with its name.
func TestStreamDeleteConsumerForgetsCrashes(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		must(t, consume(t, st, "d", "S", ignore[int]).Drain(t.Context()))
		storeRange(t, st, "S", 0, 2)
		made := strconv.FormatInt(streamInfo(t, b, "S").Created.UnixNano(), 36)
		for life := range 5 {
			must(t, second(b.JetStream().Publish(t.Context(), fmt.Sprintf("$OMNIBUS.note.S.d.%s.began.1.%d", made, life), nil)))
		}
		must(t, st.DeleteConsumer(t.Context(), "d"))
		if n := streamInfo(t, b, "S-retry").State.Msgs; n != 0 {
			t.Errorf("%d messages are left in S-retry", n)
		}
		var got ledger
		consume(t, st, "d", "S", got.handle)
		pass(time.Minute)
		got.mustBeOnce(t, 2)
	})
}

// storedSubjects returns how many messages each stream of the server has, by subject.
func storedSubjects(t *testing.T, b *bus.Bus) map[string]uint64 {
	t.Helper()
	all := make(map[string]uint64)
	list := b.JetStream().ListStreams(t.Context())
	for info := range list.Info() {
		st, err := b.JetStream().Stream(t.Context(), info.Config.Name)
		must(t, err)
		full, err := st.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		must(t, err)
		for subject, n := range full.State.Subjects {
			all[info.Config.Name+": "+subject] = n
		}
	}
	must(t, list.Err())
	return all
}

// consumersOf returns the names of the durables of a stream.
func consumersOf(t *testing.T, b *bus.Bus, stream string) []string {
	t.Helper()
	st, err := b.JetStream().Stream(t.Context(), stream)
	must(t, err)
	names := st.ConsumerNames(t.Context())
	var all []string
	for name := range names.Name() {
		all = append(all, name)
	}
	must(t, names.Err())
	return all
}

// deletable starts two members of the durable "d" with keys on two buses, with handlers
// that fail in each way, and one of the durable "other". It returns when all have failed.
func deletable(t *testing.T) (a *bus.Bus, sa *bus.Stream, members []*bus.Consumer) {
	t.Helper()
	a, _, sa, sb := two(t)
	var failed atomic.Int64
	fail := func(_ context.Context, m *bus.Msg[int]) error {
		failed.Add(1)
		if m.Data%2 == 0 {
			return bus.Permanent(errors.New("never"))
		}
		return bus.RetryAfter(time.Hour, errors.New("later"))
	}
	storeRange(t, sa, "s.a", 0, 2)
	storeRange(t, sa, "s.b", 1, 2)
	for _, st := range []*bus.Stream{sa, sb} {
		con, err := bus.Consume(t.Context(), st, "d", bus.Subject[int]("s.*"), fail, bus.KeyBySubject(), bus.AckWait(3*time.Second))
		must(t, err)
		members = append(members, con)
	}
	must(t, second(bus.Consume(t.Context(), sa, "other", bus.Subject[int]("s.*"), fail)))
	eventually(t, "all fail", func() bool { return failed.Load() >= 6 && streamInfo(t, a, "S-retry").State.Msgs >= 2 })
	return a, sa, members
}

// Nothing of a stream is left, although processes consume it with keys while it is deleted.
func TestStreamDeleteLeavesNothing(t *testing.T) {
	t.Parallel()
	a, sa, members := deletable(t)
	hasStreams(t, a, "S", "S-dead", "S-retry", "S-keys")
	must(t, sa.Delete(t.Context()))
	for _, con := range members {
		receive(t, con.Done())
		asError[*bus.StreamError](t, con.Err(), `"S"`, "deleted")
	}
	hasStreams(t, a)
}

// Nothing of a durable is left but its dead letters, although processes consume with it
// while it is deleted. Another durable keeps all it has.
func TestDeleteConsumerLeavesNothing(t *testing.T) {
	t.Parallel()
	a, sa, members := deletable(t)
	must(t, sa.DeleteConsumer(t.Context(), "d"))
	for _, con := range members {
		receive(t, con.Done())
		asError[*bus.StreamError](t, con.Err(), `"S"`, "deleted")
	}
	for subject := range storedSubjects(t, a) {
		if strings.Contains(subject, ".d.") && !strings.HasPrefix(subject, "S-dead: ") {
			t.Errorf("there is still %s", subject)
		}
	}
	for _, stream := range []string{"S", "S-retry"} {
		if got := consumersOf(t, a, stream); !slices.Equal(got, []string{"other"}) {
			t.Errorf("the consumers of %s are %v", stream, got)
		}
	}
	if n := streamInfo(t, a, "S-retry").State.Msgs; n != 2 {
		t.Errorf("%d messages of the other durable wait, want 2", n)
	}
	if n, err := sa.DeadCount(t.Context(), bus.DeadFilter{Durable: "d"}); err != nil || n != 1 {
		t.Errorf("%d dead letters, %v", n, err)
	}
}

// A stream of the program's that only has the name of a side stream stays as it is, and so
// does its durable.
func TestDeleteLeavesStreamsOfTheProgram(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	ctx := t.Context()
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	for _, name := range []string{"S-dead", "S-retry", "S-keys"} {
		own := declare(t, b, bus.StreamConfig{Name: name, Subjects: []string{"mine." + name}})
		storeRange(t, own, bus.Subject[int]("mine."+name), 0, 1)
		must(t, second(b.JetStream().CreateConsumer(ctx, name, jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy})))
	}
	before := storedSubjects(t, b)
	must(t, second(b.JetStream().CreateConsumer(ctx, "S", jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy})))
	must(t, st.DeleteConsumer(ctx, "d"))
	must(t, st.Delete(ctx))
	hasStreams(t, b, "S-dead", "S-retry", "S-keys")
	if after := storedSubjects(t, b); !maps.Equal(before, after) {
		t.Errorf("there were %v, now there are %v", before, after)
	}
	for _, name := range []string{"S-dead", "S-retry", "S-keys"} {
		if got := consumersOf(t, b, name); !slices.Equal(got, []string{"d"}) {
			t.Errorf("the consumers of %s are %v", name, got)
		}
	}
}

// When the durable is deleted, the contexts of its handlers end at once, and so does the
// consumer when they have returned.
func TestDeletionEndsHandlers(t *testing.T) {
	t.Parallel()
	for how, remove := range map[string]func(t *testing.T, b *bus.Bus, st *bus.Stream){
		"Stream.Delete":  func(t *testing.T, _ *bus.Bus, st *bus.Stream) { must(t, st.Delete(t.Context())) },
		"DeleteConsumer": func(t *testing.T, _ *bus.Bus, st *bus.Stream) { must(t, st.DeleteConsumer(t.Context(), "d")) },
		"by another program": func(t *testing.T, b *bus.Bus, _ *bus.Stream) {
			must(t, b.JetStream().DeleteStream(t.Context(), "S"))
		},
	} {
		for kind, start := range map[string]func(t testing.TB, st *bus.Stream, h bus.Handler[int]) *bus.Consumer{
			"one by one": func(t testing.TB, st *bus.Stream, h bus.Handler[int]) *bus.Consumer {
				return consume(t, st, "d", "S", h)
			},
			"keyed": func(t testing.TB, st *bus.Stream, h bus.Handler[int]) *bus.Consumer {
				return consume(t, st, "d", "S", h, bus.KeyBySubject())
			},
			"in batches": func(t testing.TB, st *bus.Stream, h bus.Handler[int]) *bus.Consumer {
				return consumeBatch(t, st, "d", "S", func(ctx context.Context, ms []*bus.Msg[int]) error { return h(ctx, ms[0]) }, bus.BatchSize(1))
			},
		} {
			t.Run(how+" "+kind, func(t *testing.T) {
				t.Parallel()
				bustest.Run(t, func(t *testing.T, b *bus.Bus) {
					st := declare(t, b, bus.StreamConfig{Name: "S"})
					causes := make(chan error, 1)
					c := start(t, st, func(ctx context.Context, m *bus.Msg[int]) error {
						if m.Data == 0 && m.Attempt == 1 {
							return bus.RetryAfter(time.Minute, errNo)
						}
						if m.Data == 1 {
							<-ctx.Done()
							causes <- context.Cause(ctx)
							return ctx.Err()
						}
						return nil
					})
					storeRange(t, st, "S", 0, 1)
					pass(2 * time.Minute) // something came back by S-retry and was acknowledged
					storeRange(t, st, "S", 1, 2)
					synctest.Wait()
					began := time.Now()
					remove(t, b, st)
					asError[*bus.StreamError](t, receive(t, causes), "the consumer was deleted")
					receive(t, c.Done())
					asError[*bus.StreamError](t, c.Err(), "the consumer was deleted")
					must(t, b.Close())
					if took := time.Since(began); took > 50*time.Millisecond {
						t.Errorf("it took %v", took)
					}
				}, bus.WithLogger(silent()))
			})
		}
	}
}
