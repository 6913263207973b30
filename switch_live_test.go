package bus_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

// many messages of 100 KB are enough that their stream is copied while publishers go on.
const many = 350

// numbered is a large message with a number.
type numbered struct {
	N    int
	Fill string
}

func newNumbered(n int) numbered {
	return numbered{n, fmt.Sprintf("%x", rand.Perm(300)) + strings.Repeat("x", 100_000)} // about 1 KB in a snapshot
}

// storeMany stores the numbers from 1 to many, with the keys 0 to 2.
func storeMany(t *testing.T, st *bus.Stream) {
	t.Helper()
	storeNumbered(t, st, 1, many)
}

func storeNumbered(t *testing.T, st *bus.Stream, first, last int) {
	t.Helper()
	for n := first; n <= last; n++ {
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[numbered](fmt.Sprintf("s.%d", n%3)), newNumbered(n))
		must(t, err)
	}
}

// slowCopy bounds the rate of a copy, so that something can happen meanwhile, and calls do
// once in the middle of it.
func slowCopy(do func()) []switchover.Option {
	var once sync.Once
	return []switchover.Option{switchover.CopyRate(512 << 10), switchover.OnProgress(func(p switchover.Progress) {
		if p.Phase == switchover.Precopy && p.Bytes > 0 {
			once.Do(do)
		}
	})}
}

// aside opens a bus with a store directory on one side of a switch, and returns where the other side
// is: the servers at urls, or home.
func aside(t *testing.T, home bool, urls string, opts ...bus.Option) (b *bus.Bus, to string) {
	t.Helper()
	opts = append(opts, bus.WithTimeout(time.Minute))
	if home {
		return elsewhere(t, urls, opts...), switchover.Embedded
	}
	return openOn(t, t.TempDir(), opts...), urls
}

// purgeRaw purges a subject of the stream S. Calls of the bus itself wait for the switch.
func purgeRaw(t *testing.T, b *bus.Bus, subject string) {
	t.Helper()
	st, err := b.JetStream().Stream(t.Context(), "S")
	must(t, err)
	must(t, st.Purge(t.Context(), jetstream.WithPurgeSubject(subject)))
}

// infoOf returns a consumer as the server has it.
func infoOf(t *testing.T, js jetstream.JetStream, stream, durable string) *jetstream.ConsumerInfo {
	t.Helper()
	c, err := js.Consumer(t.Context(), stream, durable)
	must(t, err)
	return c.CachedInfo()
}

// A large stream is copied while publishers go on. What is stored meanwhile is there, what is
// removed is not, what handlers settle is settled, and nothing is handled again. Retries and
// messages that handlers have keep their count.
func TestSwitchToCopiesALargeStreamWhilePublishersGoOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		servers int
		home    bool
		config  bus.StreamConfig
	}{
		"limits":                  {1, false, bus.StreamConfig{}},
		"memory":                  {1, false, bus.StreamConfig{Storage: bus.MemoryStorage}},
		"work queue":              {1, false, bus.StreamConfig{Retention: bus.WorkQueueRetention}},
		"cluster":                 {3, false, bus.StreamConfig{}},
		"cluster work queue":      {3, false, bus.StreamConfig{Retention: bus.WorkQueueRetention}},
		"home":                    {1, true, bus.StreamConfig{}},
		"home cluster work queue": {3, true, bus.StreamConfig{Retention: bus.WorkQueueRetention}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.servers > 1 {
				needsCluster(t)
			}
			t.Parallel()
			_, urls := servers(t, c.servers)
			b, to := aside(t, c.home, urls, bus.WithMaxMemory(256<<20))
			c.config.Name, c.config.Subjects = "S", []string{"s.*"}
			st := declare(t, b, c.config)
			storeMany(t, st)
			var mu sync.Mutex
			handled, attempts := make(map[int]int), make(map[int]int)
			release := make(chan struct{})
			blocked := make(chan int)
			consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[numbered]) error {
				mu.Lock()
				attempts[m.Data.N] = max(attempts[m.Data.N], m.Attempt)
				mu.Unlock()
				switch {
				case m.Data.N == 5 && m.Attempt < 3:
					return errNotYet
				case m.Data.N > 5 && m.Data.N <= 8 || m.Data.N > 20: // until the middle of the copy
					select {
					case <-release:
					case blocked <- m.Data.N:
						<-release
					}
				}
				mu.Lock()
				defer mu.Unlock()
				handled[m.Data.N]++
				return nil
			}, bus.Concurrency(8), bus.Retry(bus.RetryPolicy{MaxAttempts: 5, MinBackoff: 2 * time.Second, MaxBackoff: 2 * time.Second}))
			for range 8 {
				receive(t, blocked)
			}
			var stored atomic.Int64
			var ended sync.WaitGroup
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			ended.Go(func() {
				for n := many + 1; ctx.Err() == nil && n < many+4000; n++ {
					if _, err := bus.PublishTo(t.Context(), st, bus.Subject[numbered]("s.9"), numbered{N: n}); err != nil {
						t.Errorf("PublishTo: %v", err)
						return
					}
					stored.Store(int64(n))
				}
			})
			opts := slowCopy(func() {
				before := infoOf(t, b.JetStream(), "S", "c").NumAckPending
				close(release) // what is blocked settles while the stream is copied
				eventually(t, "eight messages are settled", func() bool { return infoOf(t, b.JetStream(), "S", "c").NumAckPending <= before-8 })
				purgeRaw(t, b, "s.9")
			})
			report := switchTo(t, b, to, opts...)
			t.Log(report, report.Phases)
			select {
			case <-release:
			default:
				t.Fatal("the stream was not copied before publishers waited")
			}
			if !slices.Equal(report.Live, []string{"S"}) || len(report.Warnings) > 0 {
				t.Errorf("report = %+v", report)
			}
			stop()
			ended.Wait()
			last := int(stored.Load()) + 1
			storeNumbered(t, st, last, last) // the others may be among those that were removed
			eventually(t, "everything is handled", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return handled[last] == 1 && len(handled) >= many
			})
			eventually(t, "everything is settled", func() bool {
				info := infoOf(t, b.JetStream(), "S", "c")
				return info.NumAckPending == 0 && info.NumPending == 0
			})
			mu.Lock()
			defer mu.Unlock()
			for n := 1; n <= many; n++ {
				if handled[n] != 1 || attempts[n] != 1 && n != 5 || n == 5 && attempts[n] != 3 {
					t.Fatalf("%d was handled %d times, attempt %d", n, handled[n], attempts[n])
				}
			}
		})
	}
}

// What was removed while a stream was copied is not at the target, and no sequence is used
// twice.
func TestSwitchToRemovesWhatWasRemovedWhileItCopied(t *testing.T) {
	t.Parallel()
	remove := func(t *testing.T, st jetstream.Stream, sequences ...uint64) {
		for _, n := range sequences {
			must(t, st.DeleteMsg(t.Context(), n))
		}
	}
	type change struct {
		config bus.StreamConfig
		do     func(t *testing.T, b *bus.Bus, st *bus.Stream, raw jetstream.Stream)
	}
	changes := map[string]change{
		"single ones": {do: func(t *testing.T, _ *bus.Bus, _ *bus.Stream, raw jetstream.Stream) { remove(t, raw, 10, 11, 12, 200) }},
		"the first":   {do: func(t *testing.T, _ *bus.Bus, _ *bus.Stream, raw jetstream.Stream) { remove(t, raw, 1, 2, 3, 100) }},
		"the last":    {do: func(t *testing.T, _ *bus.Bus, _ *bus.Stream, raw jetstream.Stream) { remove(t, raw, many-1, many) }},
		"the last that came": {do: func(t *testing.T, _ *bus.Bus, st *bus.Stream, raw jetstream.Stream) {
			storeNumbered(t, st, many+1, many+5)
			remove(t, raw, many+2, many+4, many+5)
		}},
		"all":       {do: func(t *testing.T, _ *bus.Bus, _ *bus.Stream, raw jetstream.Stream) { must(t, raw.Purge(t.Context())) }},
		"a subject": {do: func(t *testing.T, b *bus.Bus, _ *bus.Stream, _ jetstream.Stream) { purgeRaw(t, b, "s.1") }},
		"by a limit": {config: bus.StreamConfig{MaxMsgs: many}, do: func(t *testing.T, _ *bus.Bus, st *bus.Stream, _ jetstream.Stream) {
			storeNumbered(t, st, many+1, many+20)
		}},
		"by a limit of subjects": {config: bus.StreamConfig{MaxMsgsPerSubject: many / 3}, do: func(t *testing.T, _ *bus.Bus, st *bus.Stream, _ jetstream.Stream) {
			storeNumbered(t, st, many+1, many+20)
		}},
		"by a rollup": {config: bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.AllowRollup = true }}, do: func(t *testing.T, b *bus.Bus, _ *bus.Stream, _ jetstream.Stream) {
			_, err := b.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: "s.2", Header: nats.Header{"Nats-Rollup": {"sub"}}, Data: []byte("{}")})
			must(t, err)
		}},
	}
	changes["home: a subject"] = changes["a subject"] // what removes is found in the same way there
	for name, c := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, to := aside(t, strings.HasPrefix(name, "home"), newTarget(t).ClientURL())
			c.config.Name, c.config.Subjects = "S", []string{"s.*"}
			st := declare(t, b, c.config)
			storeMany(t, st)
			raw, err := b.JetStream().Stream(t.Context(), "S")
			must(t, err)
			var before jetstream.StreamState
			report := switchTo(t, b, to, slowCopy(func() {
				c.do(t, b, st, raw)
				info, err := raw.Info(t.Context(), jetstream.WithDeletedDetails(true))
				must(t, err)
				before = info.State
			})...)
			if !slices.Equal(report.Live, []string{"S"}) || len(report.Warnings) > 0 || before.LastSeq == 0 {
				t.Fatalf("report = %+v; before %+v", report, before)
			}
			raw, err = b.JetStream().Stream(t.Context(), "S")
			must(t, err)
			info, err := raw.Info(t.Context(), jetstream.WithDeletedDetails(true))
			must(t, err)
			if s := info.State; s.Msgs != before.Msgs || s.Bytes != before.Bytes || s.FirstSeq != before.FirstSeq || s.LastSeq != before.LastSeq || !slices.Equal(s.Deleted, before.Deleted) {
				t.Errorf("the stream has %+v, and had %+v", s, before)
			}
			ack, err := bus.PublishTo(t.Context(), st, "s.2", newNumbered(0))
			if err != nil || ack.Sequence != before.LastSeq+1 {
				t.Errorf("the next message: %+v, %v", ack, err)
			}
		})
	}
}

// A stream that has changed in another way is copied again while publishers wait.
func TestSwitchToCopiesAgainWhatHasChanged(t *testing.T) {
	t.Parallel()
	changes := map[string]func(t *testing.T, b *bus.Bus, c jetstream.Consumer){
		"deliveries": func(t *testing.T, _ *bus.Bus, c jetstream.Consumer) {
			_, err := c.Fetch(3)
			must(t, err)
			eventually(t, "they are delivered", func() bool {
				info, err := c.Info(t.Context())
				return err == nil && info.NumAckPending == 3
			})
		},
		"a new consumer": func(t *testing.T, b *bus.Bus, _ jetstream.Consumer) {
			_, err := b.JetStream().CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "new"})
			must(t, err)
		},
		"a consumer's configuration": func(t *testing.T, b *bus.Bus, c jetstream.Consumer) {
			config := c.CachedInfo().Config
			config.AckWait = time.Minute
			_, err := b.JetStream().UpdateConsumer(t.Context(), "S", config)
			must(t, err)
		},
		"the stream's configuration": func(t *testing.T, b *bus.Bus, _ jetstream.Consumer) {
			config := streamInfo(t, b, "S").Config
			config.Subjects = []string{"s.*", "more"}
			_, err := b.JetStream().UpdateStream(t.Context(), config)
			must(t, err)
		},
	}
	changes["home: the stream's configuration"] = changes["the stream's configuration"] // the way home looks at the same places
	for name, do := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, to := aside(t, strings.HasPrefix(name, "home"), newTarget(t).ClientURL())
			storeMany(t, declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}}))
			c, err := b.JetStream().CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "raw", AckPolicy: jetstream.AckExplicitPolicy})
			must(t, err)
			var before *jetstream.StreamInfo
			var consumer *jetstream.ConsumerInfo
			report := switchTo(t, b, to, slowCopy(func() {
				do(t, b, c)
				before, consumer = streamInfo(t, b, "S"), infoOf(t, b.JetStream(), "S", "raw")
			})...)
			if len(report.Live) > 0 || len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], "stream S was copied again while publishers waited") {
				t.Errorf("report = %v", report)
			}
			after, now := streamInfo(t, b, "S"), infoOf(t, b.JetStream(), "S", "raw")
			if after.State.Msgs != before.State.Msgs || after.State.Consumers != before.State.Consumers || !slices.Equal(after.Config.Subjects, before.Config.Subjects) ||
				now.NumAckPending != consumer.NumAckPending || now.Delivered.Stream != consumer.Delivered.Stream || now.Config.AckWait != consumer.Config.AckWait {
				t.Errorf("the stream is %+v, the consumer %+v; they were %+v, %+v", after, now, before, consumer)
			}
		})
	}
}

// A copy whose target goes away for a moment begins anew. Publishers do not notice.
func TestSwitchToBeginsACopyAnew(t *testing.T) {
	t.Parallel()
	all, urls := servers(t, 1)
	b := openOn(t, t.TempDir(), bus.WithTimeout(time.Minute))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeMany(t, st)
	report := switchTo(t, b, urls, slowCopy(func() {
		all[0].end()
		all[0].start()
	})...)
	if !slices.Equal(report.Live, []string{"S"}) || len(report.Warnings) > 0 {
		t.Errorf("report = %v", report)
	}
	if info := streamInfo(t, b, "S"); info.State.Msgs != many {
		t.Errorf("the stream has %d messages", info.State.Msgs)
	}
	storeNumbered(t, st, many+1, many+1)
}

// A switch that is given up while large streams are copied leaves nothing at the target, and
// consumers go on.
func TestSwitchToGivesUpWhileItCopies(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := openOn(t, t.TempDir(), bus.WithTimeout(time.Minute))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	got := make(chan int)
	consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[numbered]) error {
		select {
		case got <- m.Data.N:
		case <-ctx.Done():
		}
		return nil
	}, bus.Concurrency(1))
	storeMany(t, st)
	for n := 1; n <= 10; n++ {
		receive(t, got)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	report, err := b.SwitchTo(ctx, target.ClientURL(), slowCopy(func() { cancel(errNo) })...)
	e := asError[*switchover.Error](t, err, errNo.Error(), `"precopy"`)
	if names := streamNames(t, clientOf(t, target.ClientURL())); e.Committed || len(e.LeftBehind)+len(names) > 0 || report.Waited != 0 {
		t.Errorf("%+v, %v, the target has %v", e, report, names)
	}
	for n := 11; n <= 20; n++ {
		receive(t, got)
	}
	report = switchTo(t, b, target.ClientURL(), switchover.CopyRate(10<<20))
	if !slices.Equal(report.Live, []string{"S"}) {
		t.Errorf("report = %v", report)
	}
	for n := 21; n <= many; n++ {
		receive(t, got)
	}
}

// What waited for a consumer before a switch to a cluster is handled soon after it, also when
// nothing more is published: the server that leads the consumer may get the messages late.
func TestSwitchToAClusterWithABacklog(t *testing.T) {
	needsCluster(t)
	t.Parallel()
	_, urls := servers(t, 3)
	b := openOn(t, t.TempDir(), bus.WithTimeout(time.Minute), bus.WithSync(bus.SyncEvery(time.Minute)))
	var all [4]ledger
	for i := range all { // their leaders are on several servers
		st := declare(t, b, bus.StreamConfig{Name: fmt.Sprint("S", i), Subjects: []string{fmt.Sprintf("s%d.*", i)}})
		for range 100 {
			must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[[]byte](fmt.Sprintf("s%d.1", i)), incompressible(50_000))))
		}
		consume(t, st, "c", bus.Subject[[]byte](fmt.Sprintf("s%d.*", i)), func(_ context.Context, m *bus.Msg[[]byte]) error {
			if strings.Contains(b.ClientURL(), "embedded") && m.Sequence > 10 {
				return bus.RetryAfter(time.Second, errNotYet)
			}
			all[i].note(m.Sequence)
			return nil
		}, bus.Concurrency(1), bus.Retry(bus.RetryPolicy{MaxAttempts: 100, MinBackoff: time.Second, MaxBackoff: time.Second}))
	}
	report := switchTo(t, b, urls)
	t.Log(report, report.Phases)
	for i := range all {
		eventually(t, "all are handled", func() bool { return all[i].distinct() == 100 })
		all[i].mustBeOnce(t, 100)
	}
}

// A stream that is deleted while it is copied is not at the target. One that is created meanwhile
// is.
func TestSwitchToWithoutAStreamThatIsGone(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := openOn(t, t.TempDir(), bus.WithTimeout(time.Minute))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	other := declare(t, b, bus.StreamConfig{Name: "T", Subjects: []string{"t.*"}})
	must(t, second(bus.PublishTo(t.Context(), other, bus.Subject[int]("t.1"), 1)))
	storeMany(t, st)
	report := switchTo(t, b, target.ClientURL(), slowCopy(func() {
		must(t, b.JetStream().DeleteStream(t.Context(), "S"))
		must(t, second(b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "LATE"})))
	})...)
	want := []string{"LATE", "T"}
	if names := streamNames(t, clientOf(t, target.ClientURL())); !slices.Equal(names, want) || !slices.Equal(report.Streams, want) || len(report.Live) > 0 {
		t.Errorf("the target has %v, the report is %+v", names, report)
	}
	if len(report.Warnings) > 0 {
		t.Errorf("the warnings are %v", report.Warnings)
	}
}

// A subject that moves to a new stream while the stream that had it is copied makes the switch go back.
// The error says to try again, and that works.
func TestSwitchToWhileASubjectMoves(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d servers", n), func(t *testing.T) {
			if n > 1 {
				needsCluster(t)
			}
			t.Parallel()
			_, urls := servers(t, n)
			b := openOn(t, t.TempDir(), bus.WithTimeout(time.Minute))
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*", "moves"}})
			storeMany(t, st)
			_, err := b.SwitchTo(t.Context(), urls, slowCopy(func() { // not by calls of the bus, which the switch may hold
				config := streamInfo(t, b, "S").Config
				config.Subjects = []string{"s.*"}
				must(t, second(b.JetStream().UpdateStream(t.Context(), config)))
				must(t, second(b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "T", Subjects: []string{"moves"}})))
				must(t, second(b.JetStream().Publish(t.Context(), "moves", []byte("1"))))
			})...)
			if failed := asError[*switchover.Error](t, err, "copy of stream T", "a subject has come to this stream from another one", "try again", "the bus is where it was"); failed.Phase != switchover.Copy || len(failed.LeftBehind) > 0 {
				t.Errorf("SwitchTo = %#v", failed)
			}
			switchTo(t, b, urls)
			if s, moved := streamInfo(t, b, "S").State, streamInfo(t, b, "T").State; s.Msgs != many || moved.Msgs != 1 {
				t.Errorf("the streams have %+v and %+v", s, moved)
			}
		})
	}
}

// A stream that is deleted and created again while it is copied is copied as it is then.
func TestSwitchToCopiesTheStreamThatIsThereNow(t *testing.T) {
	t.Parallel()
	_, urls := servers(t, 1)
	b := openOn(t, t.TempDir(), bus.WithTimeout(time.Minute))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, MaxAge: time.Hour})
	storeMany(t, st)
	config := streamInfo(t, b, "S").Config
	opts := slowCopy(func() { // not by calls of the bus, which the switch may hold
		must(t, b.JetStream().DeleteStream(t.Context(), "S"))
		must(t, second(b.JetStream().CreateStream(t.Context(), config)))
		for range 10 {
			must(t, second(b.JetStream().Publish(t.Context(), "s.new", []byte(`{}`))))
		}
	})
	report, err := b.SwitchTo(t.Context(), urls, opts...)
	must(t, err)
	for _, w := range report.Warnings { // there is one if it was noticed in the hold
		if !strings.Contains(w, "was deleted and created again") {
			t.Errorf("the warnings are %v", report.Warnings)
		}
	}
	if state := streamInfo(t, b, "S").State; state.Msgs != 10 || state.LastSeq != 10 {
		t.Errorf("the target has %+v", state)
	}
}

// OnProgress counts the messages of a large stream while they are sent.
func TestSwitchToReportsHowFarALargeStreamIs(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := openOn(t, t.TempDir(), bus.WithTimeout(time.Minute))
	storeMany(t, declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}}))
	var all []switchover.Progress
	report := switchTo(t, b, target.ClientURL(), switchover.CopyRate(512<<10), switchover.OnProgress(func(p switchover.Progress) { all = append(all, p) }))
	parts := 0
	for _, p := range all {
		if p.Messages > p.TotalMessages {
			t.Errorf("more than all: %+v", p)
		}
		if p.Phase == switchover.Precopy && p.Messages > 0 && p.Messages < many {
			parts++
		}
	}
	if last := all[len(all)-1]; parts == 0 || last.Messages != many || last.TotalMessages != many || report.Messages != many {
		t.Errorf("%d parts of the copy were reported; at last %+v, %v", parts, last, report)
	}
}
