package bus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/switchover"
)

// goHome brings the streams of a bus home and returns the report.
func goHome(t *testing.T, b *bus.Bus, opts ...switchover.Option) switchover.Report {
	t.Helper()
	return switchTo(t, b, switchover.Embedded, opts...)
}

// A bus goes away, comes home, goes away again and comes home again. Each time it has all
// messages, and a restart finds them where they are.
func TestSwitchHome(t *testing.T) {
	t.Parallel()
	target, dir := newTarget(t), t.TempDir()
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	got := make(chan int, 1000)
	handle := func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil }
	consume(t, st, "plain", "s.*", handle)
	consume(t, st, "keyed", "s.*", handle, bus.KeyBySubject())
	last := 0
	more := func(t *testing.T, b *bus.Bus, st *bus.Stream) {
		t.Helper()
		storeNumbers(t, st, last+1, last+30)
		last += 30
		for range 60 {
			receive(t, got)
		}
		if all := storedNumbers(t, st); !slices.Equal(all, oneTo(last)) {
			t.Fatalf("the stream has %v", all)
		}
		if n := len(got); n > 0 {
			t.Fatalf("%d messages were handled again", n)
		}
	}
	more(t, b, st)
	for range 2 {
		switchTo(t, b, target.ClientURL())
		more(t, b, st)
		report := goHome(t, b)
		if !healthy(t, b).Embedded || report.Replicas != 1 || !slices.Contains(report.Streams, "S") || report.Messages < uint64(last) {
			t.Errorf("report %+v", report)
		}
		more(t, b, st)
		config := streamInfo(t, b, "S").Config
		if config.Metadata["_omnibus.moved"] != "" || !slices.Equal(config.Subjects, []string{"s.*"}) {
			t.Errorf("the stream is %+v", config)
		}
		left, err := clientOf(t, target.ClientURL()).Stream(t.Context(), "S")
		must(t, err)
		if c := left.CachedInfo().Config; c.Metadata["_omnibus.moved"] == "" || !strings.HasPrefix(c.Subjects[0], "$OMNIBUS.moved.") {
			t.Errorf("the stream that was left is %+v", c)
		}
	}
	must(t, b.Close())
	b = openOn(t, dir)
	if !healthy(t, b).Embedded {
		t.Error("the restart is not at home")
	}
	st = lookUp(t, b, "S")
	consume(t, st, "plain", "s.*", handle)
	consume(t, st, "keyed", "s.*", handle, bus.KeyBySubject())
	more(t, b, st)
	switchTo(t, b, target.ClientURL())
	more(t, b, st)
}

// A cluster's streams come home while the bus publishes, handles, retries and answers requests.
// Nothing is lost, handled again, or out of order, and no call of this bus fails.
func TestSwitchHomeUnderLoad(t *testing.T) {
	t.Parallel()
	toServers(t, func(t *testing.T, _ int, urls string) {
		messages := switchMessages(t)
		b := openOn(t, t.TempDir(), bus.WithURL(urls), bus.WithTimeout(time.Minute), bus.WithMaxMemory(1<<30))
		l := newSwitchLoad(t, b, messages)
		l.run()
		l.stored(messages)
		l.mustDefer()
		report := goHome(t, b, switchover.MaxWait(time.Minute))
		close(l.switched)
		t.Logf("%v\n%v", report, report.Phases)
		for _, w := range report.Warnings {
			t.Error(w)
		}
		if info := streamInfo(t, b, "LOAD"); info.Config.Replicas != 1 || len(info.Config.Metadata["_omnibus.moved"]) > 0 {
			t.Errorf("the stream has %d replicas and the metadata %v", info.Config.Replicas, info.Config.Metadata)
		}
		l.stored(int(l.next.Load()) + 500)
		l.end()
	})
}

// homePhases are where a process can die that brings streams home. From Connect on the switch is
// committed.
var homePhases = []switchover.Phase{switchover.Hold, switchover.Fence, switchover.Cut, switchover.Copy, "chunk", switchover.Verify,
	switchover.Commit, switchover.Connect, switchover.Release, switchover.Settle}

// A process that is killed in a phase of a switch home has lost nothing: before the commit the
// next start finds all messages at the server, which stores again, and after it at home. Each is
// handled. So are messages with keys, in their order, while one of them waits for a later attempt.
func TestKilledWhileSwitchingHome(t *testing.T) {
	t.Parallel()
	for _, phase := range slices.Concat(homePhases, livePhases[1:2]) {
		t.Run(string(phase), func(t *testing.T) {
			if dir := victimDir(t); dir != "" {
				goHomeAndDie(t, dir)
				return
			}
			t.Parallel()
			target, dir := newTarget(t), t.TempDir()
			keys := newKeysAfterKill()
			acked, handled := switchUntilKilled(t, dir, phase, target.ClientURL(), keys.line)
			if slices.Index(homePhases, phase) >= slices.Index(homePhases, switchover.Cut) {
				mustBeKept(t, target.ClientURL(), "S", "K-retry")
			}
			afterKillAtHome(t, dir, keys, slices.Index(homePhases, phase) >= slices.Index(homePhases, switchover.Connect), acked, handled)
			mustSayCommitted(t, target.ClientURL())
		})
	}
}

// mustBeKept has another bus try to delete streams that a switch home has fenced and not committed.
func mustBeKept(t *testing.T, url string, streams ...string) {
	t.Helper()
	other, err := bus.Connect(t.Context(), url, bus.WithLogger(silent()))
	must(t, err)
	defer func() { must(t, other.Close()) }()
	for _, name := range streams {
		st := lookUp(t, other, name)
		asError[*switchover.StreamMovedError](t, st.Delete(t.Context()), name, "under way or was interrupted", "start the bus of that store directory first", "do not delete")
		asError[*switchover.StreamMovedError](t, st.DeleteConsumer(t.Context(), "c"), name)
	}
}

// mustSayCommitted looks whether all that a switch home has left at a server says that it is committed.
func mustSayCommitted(t *testing.T, url string) {
	t.Helper()
	left := clientOf(t, url).ListStreams(t.Context())
	for info := range left.Info() {
		if m := info.Config.Metadata; m["_omnibus.moved"] == "" || m["_omnibus.left"] != m["_omnibus.moved"] {
			t.Errorf("the stream %s that was left has the metadata %v", info.Config.Name, m)
		}
	}
	must(t, left.Err())
}

// goHomeAndDie is the child: it stores and handles messages at another server, and kills itself
// in a phase of its switch home.
func goHomeAndDie(t *testing.T, dir string) {
	b := openOn(t, dir, bus.WithURL(os.Getenv(envTarget)))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	var mu sync.Mutex
	tell := func(what string, n int) {
		mu.Lock()
		defer mu.Unlock()
		say("%s %d", what, n)
	}
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error { tell("handled", m.Data); return nil }, bus.AckWait(2*time.Second))
	var publishers sync.WaitGroup
	begun := make(chan struct{})
	for p := range 4 {
		publishers.Go(func() {
			for n := p; ; n += 4 {
				if _, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.%d", p)), n); err != nil {
					return
				}
				tell("acked", n)
				if n == 120 {
					close(begun)
				}
			}
		})
	}
	storeAndHandleKeys(t, b, tell)
	receive(t, begun)
	phase := switchover.Phase(os.Getenv(envPhase))
	if slices.Contains(livePhases, phase) {
		enlarge(t, b)
	}
	_, err := b.SwitchTo(t.Context(), switchover.Embedded, switchover.MaxWait(time.Minute), switchover.CopyRate(512<<10), switchover.OnProgress(func(p switchover.Progress) {
		if reached(p, phase) {
			dieNow()
		}
	}))
	t.Fatalf("the process lives: %v", err)
}

// afterKillAtHome opens the directory of a killed process and looks for its messages.
func afterKillAtHome(t *testing.T, dir string, keys *keysAfterKill, committed bool, acked, handled map[int]bool) {
	t.Helper()
	b := openOn(t, dir) // without the URL: the journal says where the streams are
	if r := healthy(t, b); r.Embedded != committed {
		t.Errorf("Embedded = %v", r.Embedded)
	}
	st := lookUp(t, b, "S")
	got := make(chan int, 100_000)
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil }, bus.AckWait(2*time.Second))
	keys.handle(t, b)
	mustHaveAll(t, st, acked)
	storeNumbers(t, st, -10, -6)
	if !committed {
		goHome(t, b)
		mustHaveAll(t, st, acked)
	}
	for n := range acked {
		for !handled[n] {
			select {
			case m := <-got:
				handled[m] = true
			case <-time.After(stuck + 40*time.Second): // more than AckWait: what the child held comes after that
				t.Fatalf("%d was not handled", n)
			}
		}
	}
	storeNumbers(t, st, -5, -1)
	keys.mustBeInOrder(t, b)
	folders, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	homes := slices.DeleteFunc(folders, func(f string) bool {
		return !strings.HasPrefix(filepath.Base(f), "home-") && filepath.Base(f) != "data"
	})
	if len(homes) != 1 {
		t.Errorf("the folders with data are %v", homes)
	}
}

// elsewhere opens a bus with a store directory on another server.
func elsewhere(t *testing.T, url string, opts ...bus.Option) *bus.Bus {
	t.Helper()
	return openOn(t, t.TempDir(), append([]bus.Option{bus.WithURL(url)}, opts...)...)
}

// What is in the way of a switch home is named with what to do about it, all at once, and nothing
// is changed.
func TestSwitchHomeObstacles(t *testing.T) {
	t.Parallel()
	type stream = jetstream.StreamConfig
	pull := func(t *testing.T, js jetstream.JetStream, stream string) {
		c, err := js.CreateConsumer(t.Context(), stream, jetstream.ConsumerConfig{Durable: "theirs", AckPolicy: jetstream.AckExplicitPolicy})
		must(t, err)
		run, err := c.Consume(func(jetstream.Msg) {})
		must(t, err)
		t.Cleanup(run.Stop)
		eventually(t, "it asks for messages", func() bool { info, err := c.Info(t.Context()); return err == nil && info.NumWaiting > 0 })
	}
	fence := func(t *testing.T, js jetstream.JetStream, marks ...string) {
		st, err := js.Stream(t.Context(), "S")
		must(t, err)
		config := st.CachedInfo().Config
		for _, mark := range marks {
			config.Metadata[mark] = "other"
		}
		must(t, second(js.UpdateStream(t.Context(), config)))
	}
	ann := []bus.Option{bus.WithUser("ann", "x")}
	deny := func(subjects ...string) []testserver.Option {
		return []testserver.Option{func(o *server.Options) {
			o.Users = []*server.User{{Username: "ann", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: subjects}}}}
		}}
	}
	for name, c := range map[string]struct {
		opts   []bus.Option
		target []testserver.Option
		before func(t *testing.T, js jetstream.JetStream) // after stream S was declared
		names  []string                                   // looked up beside S
		want   []string
	}{
		"mirror": {names: []string{"M"}, want: []string{`stream "M"`, "copies other streams", "Mirror or Sources"}, before: func(t *testing.T, js jetstream.JetStream) {
			_, err := js.CreateStream(t.Context(), stream{Name: "M", Mirror: &jetstream.StreamSource{Name: "S"}})
			must(t, err)
		}},
		"origin of a stream that stays": {want: []string{`stream "S"`, `stream "COPY", which stays, copies it`}, before: func(t *testing.T, js jetstream.JetStream) {
			_, err := js.CreateStream(t.Context(), stream{Name: "COPY", Sources: []*jetstream.StreamSource{{Name: "S"}}})
			must(t, err)
		}},
		"sealed": {names: []string{"SEALED"}, want: []string{`stream "SEALED"`, "it is sealed", "delete it"}, before: func(t *testing.T, js jetstream.JetStream) {
			_, err := js.CreateStream(t.Context(), stream{Name: "SEALED"})
			must(t, err)
			_, err = js.UpdateStream(t.Context(), stream{Name: "SEALED", Sealed: true})
			must(t, err)
		}},
		"fenced by another switch": {want: []string{`stream "S"`, "another switch is taking it home", "wait for that switch"}, before: func(t *testing.T, js jetstream.JetStream) { fence(t, js, "_omnibus.moved") }},
		"a consumer of others":     {want: []string{`stream "S"`, `takes messages of consumer "theirs"`, "stop it"}, before: func(t *testing.T, js jetstream.JetStream) { pull(t, js, "S") }},
		"no room": {opts: []bus.Option{bus.WithMaxStore(1 << 20)}, want: []string{"bytes on disk", "raise WithMaxStore"}, names: []string{"LARGE"}, before: func(t *testing.T, js jetstream.JetStream) {
			_, err := js.CreateStream(t.Context(), stream{Name: "LARGE", MaxBytes: 2 << 20})
			must(t, err)
		}},
		"messages too large": {target: []testserver.Option{func(o *server.Options) { o.MaxPayload = 4 << 20 }}, want: []string{"WithMaxPayload(4194304)"}},
		"taken home by another switch": {want: []string{`stream "S"`, "another switch has taken it home: delete the stream here"}, before: func(t *testing.T, js jetstream.JetStream) {
			fence(t, js, "_omnibus.moved", "_omnibus.left")
		}},
		"a consumer in memory": {want: []string{`stream "S"`, `consumer "m" is kept in memory, and the embedded server would lose it: delete it, or make it without MemoryStorage`}, before: func(t *testing.T, js jetstream.JetStream) {
			must(t, second(js.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "m", MemoryStorage: true, AckPolicy: jetstream.AckExplicitPolicy})))
		}},
		"permission to list streams":   {opts: ann, target: deny("$JS.API.STREAM.LIST"), want: []string{"1 in the way", `the streams cannot be listed at the old servers: their user may not publish to "$JS.API.STREAM.LIST": let that user publish to $JS.API.STREAM.LIST; in all it needs publish to $JS.API.>,`, "and $JS.SNAPSHOT.ACK.>, and subscribe to _INBOX.>"}},
		"permission to list consumers": {opts: ann, target: deny("$JS.API.CONSUMER.LIST.>"), want: []string{"1 in the way", `stream "S": its consumers cannot be listed at the old servers: their user may not publish to "$JS.API.CONSUMER.LIST.S": let that user publish to $JS.API.CONSUMER.LIST.S;`}},
		"permissions of single calls": {opts: ann, target: deny("$JS.API.STREAM.UPDATE.>", "$JS.API.STREAM.SNAPSHOT.>", "$JS.API.STREAM.MSG.GET.>", "$JS.API.CONSUMER.INFO.>", "$JS.SNAPSHOT.ACK.>", "$JS.ACK.>"), want: []string{"6 in the way",
			`stream "S": it cannot be changed at the old servers: their user may not publish to "$JS.API.STREAM.UPDATE.S": let that user publish to $JS.API.STREAM.UPDATE.S;`,
			`stream "S": no snapshot of it can be taken at the old servers: their user may not publish to "$JS.API.STREAM.SNAPSHOT.S"`,
			`stream "S": its messages cannot be read at the old servers: their user may not publish to "$JS.API.STREAM.MSG.GET.S"`,
			`consumers cannot be looked up at the old servers: their user may not publish to "$JS.API.CONSUMER.INFO.omnibus-probe-`, "let that user publish to $JS.API.CONSUMER.INFO.>;",
			`the chunks of a snapshot cannot be acknowledged at the old servers: their user may not publish to "$JS.SNAPSHOT.ACK.omnibus-probe-`,
			`messages cannot be acknowledged at the old servers: their user may not publish to "$JS.ACK.omnibus-probe-`}},
		"two at once": {names: []string{"SEALED"}, want: []string{"2 in the way", "it is sealed", `"theirs"`}, before: func(t *testing.T, js jetstream.JetStream) {
			pull(t, js, "S")
			_, err := js.CreateStream(t.Context(), stream{Name: "SEALED"})
			must(t, err)
			_, err = js.UpdateStream(t.Context(), stream{Name: "SEALED", Sealed: true})
			must(t, err)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := newTarget(t, c.target...)
			b := elsewhere(t, target.ClientURL(), c.opts...)
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			if c.before != nil {
				c.before(t, b.JetStream())
			}
			for _, n := range c.names {
				lookUp(t, b, n)
			}
			before := streamNames(t, b.JetStream())
			for _, opts := range [][]switchover.Option{nil, {switchover.DryRun()}} {
				_, err := b.SwitchTo(t.Context(), switchover.Embedded, opts...)
				asError[*switchover.ObstacleError](t, err, append(c.want, "bus: cannot switch to the embedded server, and nothing was changed")...)
			}
			if after := streamNames(t, b.JetStream()); !slices.Equal(after, before) {
				t.Errorf("the streams were %v and are %v", before, after)
			}
			if !strings.HasSuffix(name, "by another switch") {
				storeNumbers(t, st, 1, 3)
			}
		})
	}
}

// A bus that has nowhere to bring streams to says so.
func TestSwitchHomeIsNotSupported(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	connected, err := bus.Connect(t.Context(), target.ClientURL(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { must(t, connected.Close()) })
	for name, c := range map[string]struct {
		b    *bus.Bus
		want string
	}{
		"at home":     {openOn(t, t.TempDir()), "the bus is at its embedded server already"},
		"Connect":     {connected, "only a bus of New with WithStoreDir"},
		"no store":    {ownBus(t, bus.WithURL(target.ClientURL())), "only a bus of New with WithStoreDir"},
		"from memory": {ownBus(t), "the bus is at its embedded server already"},
	} {
		_, err := c.b.SwitchTo(t.Context(), switchover.Embedded)
		asError[*bus.UnsupportedError](t, err, "bus: SwitchTo: ", c.want)
		t.Logf("%s: %v", name, err)
	}
	_, err = elsewhere(t, target.ClientURL()).SwitchTo(t.Context(), switchover.Embedded, bus.WithToken("x"))
	asError[*bus.OptionError](t, err, "leave it out")
}

// Another process that shares keys is an obstacle, and one that pulls from a consumer of this bus
// is found when this one does not any more. Then everything goes on where it was.
func TestSwitchHomeWhileOthersTakePart(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := elsewhere(t, target.ClientURL())
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	got := make(chan int, 100)
	handle := func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil }
	consume(t, st, "keyed", "s.*", handle, bus.KeyBySubject())
	other, err := bus.Connect(t.Context(), target.ClientURL(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { must(t, other.Close()) })
	ignore := func(context.Context, *bus.Msg[int]) error { return nil }
	shared := consume(t, lookUp(t, other, "S"), "keyed", "s.*", ignore, bus.KeyBySubject())
	eventually(t, "the other process is seen", func() bool {
		_, err := b.SwitchTo(t.Context(), switchover.Embedded, switchover.DryRun())
		if err == nil {
			return false
		}
		asError[*switchover.ObstacleError](t, err, `another process takes part in consumer "keyed"`, "stop the others")
		return true
	})
	must(t, shared.Drain(t.Context()))
	consume(t, st, "plain", "s.*", handle)
	second := consume(t, lookUp(t, other, "S"), "plain", "s.*", ignore)
	_, err = b.SwitchTo(t.Context(), switchover.Embedded)
	failed := asError[*switchover.Error](t, err, "another program takes messages of consumer plain", "the bus is where it was")
	if failed.Phase != switchover.Fence || failed.Committed {
		t.Errorf("it failed in %s", failed.Phase)
	}
	must(t, second.Drain(t.Context()))
	storeNumbers(t, st, 1, 10)
	for range 20 {
		receive(t, got)
	}
	goHome(t, b)
	storeNumbers(t, st, 11, 20)
	for range 20 {
		receive(t, got)
	}
}

// When the time is over, or something fails, the streams get their subjects back, and everything
// goes on at the server. Nothing of the attempt stays.
func TestSwitchHomeGoesBack(t *testing.T) {
	t.Parallel()
	target, dir := newTarget(t), t.TempDir()
	b := openOn(t, dir, bus.WithURL(target.ClientURL()))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	got := make(chan int, 100)
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil })
	storeNumbers(t, st, 1, 10)
	last := 10
	for _, phase := range []switchover.Phase{switchover.Hold, switchover.Fence, switchover.Cut, switchover.Copy, switchover.Verify, switchover.Commit} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := b.SwitchTo(ctx, switchover.Embedded, switchover.OnProgress(func(p switchover.Progress) {
			if p.Phase == phase {
				cancel()
			}
		}))
		if failed := asError[*switchover.Error](t, err, "where it was, with all messages"); failed.Phase != phase || failed.Committed {
			t.Errorf("it was cancelled in %s and failed in %s", phase, failed.Phase)
		}
		storeNumbers(t, st, last+1, last+10)
		last += 10
		if c := streamInfo(t, b, "S").Config; c.Metadata["_omnibus.moved"] != "" || !slices.Equal(c.Subjects, []string{"s.*"}) {
			t.Errorf("after %s the stream is %+v", phase, c)
		}
	}
	_, err := b.SwitchTo(t.Context(), switchover.Embedded, switchover.MaxWait(time.Nanosecond))
	asError[*switchover.Error](t, err, "MaxWait")
	for range last {
		receive(t, got)
	}
	if all := storedNumbers(t, st); !slices.Equal(all, oneTo(last)) {
		t.Errorf("the stream has %v", all)
	}
	if homes, _ := filepath.Glob(filepath.Join(dir, "home-*")); len(homes) > 0 {
		t.Errorf("left: %v", homes)
	}
	if _, err := os.Stat(filepath.Join(dir, "switch.json")); err == nil {
		t.Error("the journal is left")
	}
	goHome(t, b)
	storeNumbers(t, st, last+1, last+10)
	for range 10 {
		receive(t, got)
	}
	select {
	case n := <-got:
		t.Errorf("%d was handled again", n)
	default:
	}
}

// What a switch home has left at the server takes nothing more: not from programs with this
// library, which are told where the messages are, and not from others.
func TestWhatASwitchHomeLeaves(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := elsewhere(t, target.ClientURL())
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	consume(t, st, "c", "s.*", ignore[int], bus.KeyBySubject())
	goHome(t, b, switchover.OnProgress(func(p switchover.Progress) {
		if p.Phase == switchover.Cut || p.Phase == switchover.Commit || p.Phase == switchover.Release {
			mustBeKept(t, target.ClientURL(), "S", "S-dead")
		}
	}))
	mustSayCommitted(t, target.ClientURL())
	other, err := bus.Connect(t.Context(), target.ClientURL(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { must(t, other.Close()) })
	_, err = other.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	asError[*switchover.StreamMovedError](t, err, `stream "S"`, "is what a switch home has left", "delete the stream here")
	_, err = bus.Consume(t.Context(), lookUp(t, other, "S"), "d", bus.Subject[int]("$OMNIBUS.>"), func(context.Context, *bus.Msg[int]) error { return nil })
	asError[*switchover.StreamMovedError](t, err, `stream "S"`)
	_, err = bus.Consume(t.Context(), lookUp(t, other, "S"), "c", "s.*", ignore[int])
	asError[*switchover.StreamMovedError](t, err, `stream "S"`)
	asError[*switchover.StreamMovedError](t, second(bus.PublishTo(t.Context(), lookUp(t, other, "S"), "s.a", 1)), `stream "S"`)
	if _, err := other.JetStream().Publish(t.Context(), "s.a", nil); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("Publish = %v", err)
	}
	must(t, other.JetStream().DeleteStream(t.Context(), "S"))
	again := declare(t, other, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	_, err = bus.Consume(t.Context(), again, "c", "s.*", ignore[int])
	asError[*switchover.StreamMovedError](t, err, `stream "S-dead"`, "LookupStream, Stream.Delete")
	must(t, again.Delete(t.Context()))
	for _, side := range []string{"S-dead", "S-retry", "S-keys"} {
		isError(t, second(other.LookupStream(t.Context(), side)), bus.ErrStreamNotFound)
	}
	consume(t, declare(t, other, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}}), "c", "s.*", ignore[int], bus.KeyBySubject())
}

// A server of a cluster, or the only one, that dies in the middle of a switch home does no harm:
// the switch goes on, or leads back when the server is there again.
func TestServerKilledWhileSwitchingHome(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 3} {
		for _, phase := range []switchover.Phase{switchover.Hold, switchover.Fence, switchover.Cut, switchover.Copy, switchover.Commit, switchover.Connect} {
			t.Run(fmt.Sprintf("%s of %d", phase, n), func(t *testing.T) {
				if n > 1 {
					needsCluster(t)
				}
				t.Parallel()
				all, urls := servers(t, n)
				b := elsewhere(t, urls, bus.WithTimeout(time.Minute))
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				got := make(chan int, 1000)
				consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil })
				storeNumbers(t, st, 1, 100)
				for range 100 {
					receive(t, got)
				}
				var once sync.Once
				_, err := b.SwitchTo(t.Context(), switchover.Embedded, switchover.MaxWait(20*time.Second), switchover.OnProgress(func(p switchover.Progress) {
					if p.Phase == phase {
						once.Do(func() {
							all[0].end()
							all[0].start()
						})
					}
				}))
				t.Logf("SwitchTo = %v", err)
				if err != nil {
					asError[*switchover.Error](t, err)
				}
				within(t, time.Minute, "the bus is connected", b.Conn().IsConnected)
				storeNumbers(t, st, 101, 110)
				if all := storedNumbers(t, st); !slices.Equal(all, oneTo(110)) {
					t.Errorf("the stream has %v", all)
				}
				for seen := make(map[int]bool); len(seen) < 10; {
					select {
					case m := <-got:
						seen[m] = true
					case <-time.After(time.Minute):
						t.Fatalf("handled %v", seen)
					}
				}
			})
		}
	}
}

// Others must not see the streams before they count, so the embedded server must have no port.
func TestSwitchHomeWithAPort(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	for name, opt := range map[string]bus.Option{
		"WithListen":        bus.WithListen("127.0.0.1:0"),
		"WithServerOptions": bus.WithServerOptions(func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "127.0.0.1", server.RANDOM_PORT }),
	} {
		_, err := elsewhere(t, target.ClientURL(), opt).SwitchTo(t.Context(), switchover.Embedded)
		t.Logf("%s: %v", name, err)
		asError[*switchover.ObstacleError](t, err, "would have a port", "start the program without WithListen")
	}
}

// A message that the bus still holds and the stream has removed is not counted for one that another
// client got and did not acknowledge: that one comes again.
func TestSwitchHomeCountsWhatTheStreamHas(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := elsewhere(t, target.ClientURL())
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, MaxMsgsPerSubject: 1})
	begun, release, got := make(chan int, 10), make(chan struct{}), make(chan int, 10)
	con := consume(t, st, "c", "s.*", func(context.Context, *bus.Msg[int]) error { return nil }, bus.AckWait(8*time.Second))
	must(t, con.Drain(t.Context()))
	_, err := bus.PublishTo(t.Context(), st, bus.Subject[int]("s.x"), 1)
	must(t, err)
	theirs, err := b.JetStream().Consumer(t.Context(), "S", "c")
	must(t, err)
	m, err := theirs.Next()
	must(t, err)
	t.Logf("another client has %s", m.Subject()) // and never acknowledges it
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		begun <- m.Data
		<-release
		got <- m.Data
		return nil
	}, bus.Concurrency(2), bus.AckWait(8*time.Second))
	for n := 2; n <= 3; n++ { // 3 removes 2, whose handler runs
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[int]("s.a"), n)
		must(t, err)
		receive(t, begun)
	}
	report := goHome(t, b)
	close(release)
	if !strings.Contains(fmt.Sprint(report.Warnings), "consumer c of stream S") {
		t.Errorf("the warnings are %v", report.Warnings)
	}
	for n := 0; n != 1; {
		select {
		case n = <-got:
		case <-time.After(time.Minute):
			t.Fatal("the message of the other client did not come")
		}
	}
}

// A fence that somebody ends before the commit makes the switch go back, and nothing is lost.
func TestSwitchHomeWithoutItsFence(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := elsewhere(t, target.ClientURL())
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, MaxAge: time.Hour})
	storeNumbers(t, st, 1, 10)
	js := clientOf(t, target.ClientURL())
	_, err := b.SwitchTo(t.Context(), switchover.Embedded, switchover.OnProgress(func(p switchover.Progress) {
		if p.Phase != switchover.Commit {
			return
		}
		there, err := js.Stream(t.Context(), "S")
		must(t, err)
		config := there.CachedInfo().Config
		config.Subjects = []string{"s.*"}
		_, err = js.UpdateStream(t.Context(), config)
		must(t, err)
		_, err = js.Publish(t.Context(), "s.1", []byte("11"))
		must(t, err)
	}))
	asError[*switchover.Error](t, err, "somebody has changed stream S", "the bus is where it was")
	storeNumbers(t, st, 12, 12)
	if got := storedNumbers(t, st); !slices.Equal(got, oneTo(12)) {
		t.Errorf("the stream has %v", got)
	}
}

// A fence is ended at the server that has it, and not forgotten at another one.
func TestInterruptedSwitchHomeAtAnotherServer(t *testing.T) {
	t.Parallel()
	target, other, dir := newTarget(t), newTarget(t), t.TempDir()
	for _, s := range []*testserver.Server{target, other} {
		b := elsewhere(t, s.ClientURL())
		declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	}
	must(t, openOn(t, dir).Close())
	journal := fmt.Sprintf(`{"id":"x","target":%q,"streams":["S"],"home":true,"subjects":{"S":["s.*"]}}`, target.ClientURL())
	must(t, os.WriteFile(filepath.Join(dir, "switch.json"), []byte(journal), 0o600))
	_, err := clientOf(t, target.ClientURL()).UpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", AllowDirect: true, Subjects: []string{"$OMNIBUS.moved.x.S"}, Metadata: map[string]string{"_omnibus.moved": "x"}})
	must(t, err)
	_, err = quietBus(bus.WithStoreDir(dir), bus.WithURL(other.ClientURL()))
	asError[*switchover.MovedError](t, err, target.ClientURL(), "use that URL once")
	b := openOn(t, dir)
	if c := streamInfo(t, b, "S").Config; c.Metadata["_omnibus.moved"] != "" || !slices.Equal(c.Subjects, []string{"s.*"}) {
		t.Errorf("the stream is %+v", c)
	}
}
