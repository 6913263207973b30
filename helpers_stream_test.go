package bus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/health"
)

func refuse(context.Context, *bus.Msg[int]) error { return errNo }

func giveUp(context.Context, *bus.Msg[int]) error { return bus.Permanent(errNo) }

func consumeBatch[T any](t testing.TB, st *bus.Stream, durable string, s bus.Subject[T], h bus.BatchHandler[T], opts ...bus.ConsumeOption) *bus.Consumer {
	t.Helper()
	con, err := bus.ConsumeBatch(t.Context(), st, durable, s, h, opts...)
	must(t, err)
	return con
}

// twice is a policy of two attempts.
var twice = bus.Retry(bus.RetryPolicy{MaxAttempts: 2, MinBackoff: 10 * time.Millisecond})

// failAtRandom returns a function that says so for a share of the calls.
func failAtRandom(share float64) func() bool {
	return func() bool { return rand.Float64() < share }
}

// fetchAndDie fetches count messages for a durable like a process that dies with them. It
// waits for them: the server confirms a message before its consumers can fetch it.
func fetchAndDie(t *testing.T, b *bus.Bus, stream, durable string, count int) {
	t.Helper()
	con, err := b.JetStream().Consumer(t.Context(), stream, durable)
	must(t, err)
	batch, err := con.Fetch(count)
	must(t, err)
	got := 0
	for range batch.Messages() {
		got++
	}
	must(t, batch.Error())
	if got != count {
		t.Fatalf("%d of %d messages were fetched", got, count)
	}
}

// consumeMux begins to consume by a Mux.
func consumeMux(t testing.TB, st *bus.Stream, durable string, m *bus.Mux, opts ...bus.ConsumeOption) *bus.Consumer {
	t.Helper()
	con, err := st.Consume(t.Context(), durable, m, opts...)
	must(t, err)
	return con
}

func stopped(c *bus.Consumer, err error) error {
	if err == nil {
		c.Stop()
	}
	return err
}

// two returns two buses on one server, and the stream S as each of them sees it.
func two(t *testing.T, opts ...bus.ConnectOption) (a, b *bus.Bus, sa, sb *bus.Stream) {
	t.Helper()
	a = bustest.New(t, bus.WithListen("127.0.0.1:0"))
	sa = declare(t, a, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	b, err := bus.Connect(t.Context(), a.ClientURL(), opts...)
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	sb, err = b.LookupStream(t.Context(), "S")
	must(t, err)
	return a, b, sa, sb
}

// keyLog notes which messages of which key were handled, and whether two of one key
// ever were at once.
type keyLog struct {
	ledger

	keys    map[string][]uint64
	running map[string]bool
	most    int // keys at once
}

// begin notes that a message of key is handled; end that it is done, or has failed.
func (l *keyLog) begin(t testing.TB, key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running == nil {
		l.running, l.keys = make(map[string]bool), make(map[string][]uint64)
	}
	if l.running[key] {
		t.Errorf("two messages of %s are handled at once", key)
	}
	l.running[key] = true
	l.most = max(l.most, len(l.running))
}

func (l *keyLog) end(key string, seq uint64, done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.running, key)
	if !done {
		return
	}
	l.keys[key] = append(l.keys[key], seq)
	if l.times == nil {
		l.times = make(map[uint64]int)
	}
	l.times[seq]++
	l.order = append(l.order, seq)
}

// mustBeInOrder fails the test unless the first successes of each key are in the
// order of the stream.
func (l *keyLog) mustBeInOrder(t testing.TB) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, seqs := range l.keys {
		last, seen := uint64(0), make(map[uint64]bool)
		for _, seq := range seqs {
			if !seen[seq] && seq < last {
				t.Errorf("of %s message %d came after %d: %v", key, seq, last, seqs)
				break
			}
			seen[seq], last = true, max(last, seq)
		}
	}
}

// failing returns a handler that fails at random, takes a while, and notes the rest.
func (l *keyLog) failing(t testing.TB, share float64, took time.Duration) bus.Handler[int] {
	return func(_ context.Context, m *bus.Msg[int]) error {
		l.begin(t, m.Subject)
		if took > 0 {
			time.Sleep(time.Duration(rand.Int64N(int64(took))))
		}
		failed := rand.Float64() < share
		l.end(m.Subject, m.Sequence, !failed)
		if failed {
			return errNo
		}
		return nil
	}
}

// storeKeys stores messages of keys in turn.
func storeKeys(t testing.TB, st *bus.Stream, keys, n int) {
	t.Helper()
	for i := range n {
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.k%d", i%keys)), i)
		must(t, err)
	}
}

var always = bus.Retry(bus.RetryPolicy{MaxAttempts: bus.Unlimited, MinBackoff: 10 * time.Millisecond, MaxBackoff: time.Minute})

// mustBeAcknowledged fails the test unless the durable has handled everything.
func mustBeAcknowledged(t testing.TB, b *bus.Bus, stream, durable string) {
	t.Helper()
	if i := consumerInfo(t, b, stream, durable); i.NumAckPending != 0 || i.NumPending != 0 {
		t.Errorf("of %s %d messages are not acknowledged, %d not sent", durable, i.NumAckPending, i.NumPending)
	}
}

// consume begins to consume.
func consume[T any](t testing.TB, st *bus.Stream, durable string, s bus.Subject[T], h bus.Handler[T], opts ...bus.ConsumeOption) *bus.Consumer {
	t.Helper()
	con, err := bus.Consume(t.Context(), st, durable, s, h, opts...)
	must(t, err)
	return con
}

// consumerInfo is what the server says of a durable.
func consumerInfo(t testing.TB, b *bus.Bus, stream, durable string) *jetstream.ConsumerInfo {
	t.Helper()
	con, err := b.JetStream().Consumer(t.Context(), stream, durable)
	must(t, err)
	return con.CachedInfo()
}

// mustBeDone fails the test unless the durable has handled everything, and nothing
// was sent to it twice.
func mustBeDone(t testing.TB, b *bus.Bus, stream, durable string) {
	t.Helper()
	i := consumerInfo(t, b, stream, durable)
	if i.NumAckPending != 0 || i.NumPending != 0 || i.NumRedelivered != 0 {
		t.Errorf("of %s %d messages are not acknowledged, %d not sent, %d were sent again", durable, i.NumAckPending, i.NumPending, i.NumRedelivered)
	}
}

// ledger counts how often each message was handled.
type ledger struct {
	mu    sync.Mutex
	times map[uint64]int
	order []uint64
}

func (l *ledger) note(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.times == nil {
		l.times = make(map[uint64]int)
	}
	l.times[seq]++
	l.order = append(l.order, seq)
}

// handle is a handler that only notes.
func (l *ledger) handle(_ context.Context, m *bus.Msg[int]) error {
	l.note(m.Sequence)
	return nil
}

// sequences are those that were handled, in that order.
func (l *ledger) sequences() []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.order)
}

// distinct is how many different messages were handled.
func (l *ledger) distinct() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.times)
}

// mustBeOnce fails the test unless each of the messages 1 to last was handled once.
func (l *ledger) mustBeOnce(t testing.TB, last int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.times) != last || len(l.order) != last {
		t.Errorf("%d different messages were handled, %d in all, want %d", len(l.times), len(l.order), last)
	}
	for _, seq := range slices.Sorted(maps.Keys(l.times)) {
		if l.times[seq] != 1 || seq < 1 || seq > uint64(last) {
			t.Errorf("message %d was handled %d times", seq, l.times[seq])
		}
	}
}

// upTo is 1, 2, … n.
func upTo(n int) []uint64 {
	all := make([]uint64, n)
	for i := range all {
		all[i] = uint64(i + 1)
	}
	return all
}

// attempts notes when the handler was called, in virtual time.
type attempts struct {
	at      []time.Time
	numbers []int
}

func (a *attempts) note(m *bus.Msg[int]) {
	a.at = append(a.at, time.Now())
	a.numbers = append(a.numbers, m.Attempt)
}

// onlyDeadLetter is the one that the stream has.
func onlyDeadLetter(t *testing.T, st *bus.Stream) *bus.DeadLetter {
	t.Helper()
	var all []*bus.DeadLetter
	for l, err := range st.DeadLetters(t.Context(), bus.DeadFilter{}) {
		must(t, err)
		all = append(all, l)
	}
	if len(all) != 1 {
		t.Fatalf("there are %d dead letters, want 1", len(all))
	}
	return all[0]
}

// messagesOf reads a whole stream, without the library's help.
func messagesOf(t testing.TB, b *bus.Bus, name string) map[uint64]string {
	t.Helper()
	st, err := b.JetStream().Stream(t.Context(), name)
	must(t, err)
	state := st.CachedInfo().State
	all := make(map[uint64]string)
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
		m, err := st.GetMsg(t.Context(), seq)
		must(t, err)
		all[seq] = string(m.Data)
	}
	if uint64(len(all)) != state.Msgs {
		t.Errorf("the stream says it has %d messages, and has %d", state.Msgs, len(all))
	}
	return all
}

// awaitAll waits until a durable has handled all there is and the server knows, for as
// long as the test may run: after a crash that can be much work.
func awaitAll(t testing.TB, b *bus.Bus, stream, durable string) {
	t.Helper()
	for {
		i := consumerInfo(t, b, stream, durable)
		side, err := b.JetStream().Stream(t.Context(), stream+"-retry")
		must(t, err)
		retries, err := side.Info(t.Context(), jetstream.WithSubjectFilter("$OMNIBUS.*."+stream+"."+durable+".>"))
		must(t, err)
		waits := false // a message that comes back; not a record of the recovery log
		for subject := range retries.State.Subjects {
			waits = waits || !strings.HasPrefix(subject, "$OMNIBUS.note.")
		}
		if i.NumAckPending == 0 && i.NumPending == 0 && !waits {
			return
		}
		receiveTick(t)
	}
}

// deadLetters returns the dead letters of st that fit f.
func deadLetters(t testing.TB, st *bus.Stream, f bus.DeadFilter) []*bus.DeadLetter {
	t.Helper()
	var all []*bus.DeadLetter
	for l, err := range st.DeadLetters(t.Context(), f) {
		must(t, err)
		all = append(all, l)
	}
	return all
}

// refuseAll makes a stream take no message until allow is called.
func refuseAll(t testing.TB, b *bus.Bus, name string) (allow func()) {
	t.Helper()
	c := streamInfo(t, b, name).Config
	set := func(largest int32) {
		c.MaxMsgSize = largest
		_, err := b.JetStream().UpdateStream(t.Context(), c)
		must(t, err)
	}
	set(1)
	return func() { set(-1) }
}

// healthy fails the test unless b is.
func healthy(t testing.TB, b *bus.Bus) health.Report {
	t.Helper()
	r := b.Health(t.Context())
	if r.Status != health.Healthy || len(r.Problems) != 0 {
		t.Errorf("the report is %+v, want a healthy one", r)
	}
	return r
}

// unwell fails the test unless r has exactly one problem: of this status and
// part, with these words in its reason.
func unwell(t testing.TB, r health.Report, status health.Status, part string, words ...string) {
	t.Helper()
	if r.Status != status || len(r.Problems) != 1 {
		t.Fatalf("the report is %+v, want one problem, %v", r, status)
	}
	p := r.Problems[0]
	if p.Status != status || p.Part != part {
		t.Errorf("the problem is %+v, want %v in %q", p, status, part)
	}
	hasText(t, errors.New(p.Reason), words...)
}

// declare makes sure of a stream.
func declare(t testing.TB, b *bus.Bus, c bus.StreamConfig) *bus.Stream {
	t.Helper()
	st, err := b.Stream(t.Context(), c)
	must(t, err)
	return st
}

// streamInfo is what the server says of a stream. In a cluster that elects a leader, it says for a
// moment that there is no such stream.
func streamInfo(t testing.TB, b *bus.Bus, name string) *jetstream.StreamInfo {
	t.Helper()
	var st jetstream.Stream
	eventually(t, "the server knows stream "+name, func() (known bool) {
		var err error
		if st, err = b.JetStream().Stream(t.Context(), name); !errors.Is(err, jetstream.ErrStreamNotFound) {
			must(t, err)
		}
		return err == nil
	})
	return st.CachedInfo()
}

// configOf is the configuration that the server has, without what the library keeps
// in its metadata.
func configOf(t testing.TB, b *bus.Bus, name string) jetstream.StreamConfig {
	t.Helper()
	c := streamInfo(t, b, name).Config
	maps.DeleteFunc(c.Metadata, func(key, _ string) bool { return strings.HasPrefix(key, "_omnibus.") })
	return c
}

// storeRange stores from, from+1, … below to, which get the sequences after the
// last one.
func storeRange(t testing.TB, st *bus.Stream, s bus.Subject[int], from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		_, err := bus.PublishTo(t.Context(), st, s, i)
		must(t, err)
	}
}

// mustHold fails the test unless the stream has exactly the sequences from first
// to last.
func mustHold(t testing.TB, b *bus.Bus, name string, first, last uint64) {
	t.Helper()
	s := streamInfo(t, b, name).State
	if s.FirstSeq != first || s.LastSeq != last || s.Msgs != last+1-first {
		t.Errorf("stream %s has the %d messages from %d to %d, want those from %d to %d", name, s.Msgs, s.FirstSeq, s.LastSeq, first, last)
	}
}
