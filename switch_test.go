package bus_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/switchover"
)

// newTarget starts a server to switch to.
func newTarget(t *testing.T, opts ...testserver.Option) *testserver.Server {
	t.Helper()
	return testserver.New(t, append([]testserver.Option{testserver.WithJetStream, testserver.WithPort}, opts...)...)
}

// switchTo switches a bus and returns the report.
func switchTo(t *testing.T, b *bus.Bus, url string, opts ...switchover.Option) switchover.Report {
	t.Helper()
	report, err := b.SwitchTo(t.Context(), url, append([]switchover.Option{switchover.MaxWait(time.Minute)}, opts...)...)
	if err != nil {
		t.Fatalf("SwitchTo = %v; %v, the warnings are %v", err, report.Phases, report.Warnings)
	}
	return report
}

// storeNumbers stores the numbers from first to last, and returns nothing before all are
// acknowledged.
func storeNumbers(t *testing.T, st *bus.Stream, first, last int) {
	t.Helper()
	for n := first; n <= last; n++ {
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.%d", n%3)), n)
		must(t, err)
	}
}

// storedNumbers returns what a stream has.
func storedNumbers(t *testing.T, st *bus.Stream) (all []int) {
	t.Helper()
	for _, m := range replayed[int](t, st, "s.*") {
		all = append(all, m.Data)
	}
	return all
}

// oneTo returns the numbers from 1 to n.
func oneTo(n int) (all []int) {
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

// A bus in memory and one on disk switch. The report says what was done, and a bus on the
// store directory is on the new server from then on, and never on the old streams.
func TestSwitchTo(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bus.Option{"memory": nil, "disk": {bus.WithStoreDir("")}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target, dir := newTarget(t), t.TempDir()
			if opts != nil {
				opts = []bus.Option{bus.WithStoreDir(dir)}
			}
			b := ownBus(t, opts...)
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			storeNumbers(t, st, 1, 50)
			var phases []switchover.Phase
			report := switchTo(t, b, target.ClientURL(), switchover.OnProgress(func(p switchover.Progress) {
				if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
					phases = append(phases, p.Phase)
				}
			}))
			if report.Messages != 50 || !slices.Equal(report.Streams, []string{"S"}) || report.Replicas != 1 || report.Bytes == 0 || report.Waited == 0 ||
				report.Target != target.ClientURL() || len(report.Phases) != 9 || len(phases) != 9 {
				t.Errorf("report = %+v, phases %v", report, phases)
			}
			storeNumbers(t, st, 51, 60)
			if got := storedNumbers(t, st); !slices.Equal(got, oneTo(60)) {
				t.Errorf("the stream has %v", got)
			}
			if r := healthy(t, b); r.Embedded || b.ClientURL() != target.ClientURL() {
				t.Errorf("health = %+v, ClientURL = %s", r, b.ClientURL())
			}
			_, err := b.SwitchTo(t.Context(), target.ClientURL())
			asError[*bus.UnsupportedError](t, err, "bus: SwitchTo: ", "this bus")
			must(t, b.Close())
			if opts != nil {
				reopenMoved(t, dir, target)
			}
		})
	}
}

// reopenMoved opens a bus on a directory whose streams were moved.
func reopenMoved(t *testing.T, dir string, target *testserver.Server) {
	t.Helper()
	for name, opts := range map[string][]bus.Option{"directory alone": nil, "the same URL": {bus.WithURL(target.ClientURL())}} {
		b := openOn(t, dir, opts...)
		st, err := b.LookupStream(t.Context(), "S")
		must(t, err)
		if got := storedNumbers(t, st); !slices.Equal(got, oneTo(60)) {
			t.Errorf("%s: the stream has %v", name, got)
		}
		must(t, b.Close())
	}
	other := newTarget(t)
	_, err := quietBus(bus.WithStoreDir(dir), bus.WithURL(other.ClientURL()))
	asError[*switchover.MovedError](t, err, target.ClientURL(), other.ClientURL(), "has none of them")
	for _, name := range streamNames(t, clientOf(t, target.ClientURL())) {
		must(t, clientOf(t, target.ClientURL()).DeleteStream(t.Context(), name))
	}
	logger, lines := logTo(hclog.Warn)
	b, err := bus.New(bus.WithStoreDir(dir), logger)
	must(t, err)
	must(t, b.Close())
	if all := fmt.Sprint(lines(t)); !strings.Contains(all, "has none of the streams that were moved to it") {
		t.Errorf("the log says %s", all)
	}
	target.Stop()
	_, err = quietBus(bus.WithStoreDir(dir), bus.WithTimeout(time.Second))
	asError[*switchover.MovedError](t, err, target.ClientURL(), dir)
	asError[*bus.ConnectError](t, err)
	_, err = quietBus(bus.WithStoreDir(dir), bus.WithURL("nats://127.0.0.1:1"), bus.WithTimeout(time.Second))
	asError[*switchover.MovedError](t, err, target.ClientURL(), "WithURL names nats://127.0.0.1:1, which cannot be used now")
	asError[*bus.ConnectError](t, err)
}

// SwitchTo says why it cannot connect to the target.
func TestSwitchToWhereNobodyListens(t *testing.T) {
	t.Parallel()
	_, err := ownBus(t).SwitchTo(t.Context(), "nats://127.0.0.1:1")
	asError[*bus.ConnectError](t, err, "nats://127.0.0.1:1", "no servers available", "dial tcp 127.0.0.1:1", "see that the server runs")
}

// What a bus knows of its messages is found after a switch: dead letters, blocked keys, and
// retries. A consumer with keys becomes shareable: another process takes part, and each key
// stays in order.
func TestSwitchToKeepsTheOrderOfKeys(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := openOn(t, t.TempDir())
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	var order keyOrder
	var fails atomic.Bool
	fails.Store(true)
	handle := func(who string) bus.Handler[int] {
		h := order.handler(t, who)
		return func(ctx context.Context, m *bus.Msg[int]) error {
			if fails.Load() && m.Data == 4 {
				return bus.Permanent(errNo)
			}
			return h(ctx, m)
		}
	}
	opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyFollows), bus.Concurrency(1)}
	consume(t, st, "c", "s.*", handle("first"), opts...)
	storeNumbers(t, st, 1, 30) // key s.1: 1, 4 and what is behind it
	eventually(t, "4 and those behind it are dead letters", func() bool { return len(deadLetters(t, st, bus.DeadFilter{})) == 9 })
	switchTo(t, b, target.ClientURL())
	other, err := bus.Connect(t.Context(), target.ClientURL(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { must(t, other.Close()) })
	there, err := other.LookupStream(t.Context(), "S")
	must(t, err)
	consume(t, there, "c", "s.*", handle("second"), opts...)
	next := 31
	eventually(t, "both processes handle messages", func() bool {
		storeNumbers(t, st, next, next+29)
		next += 30
		return order.count("second") > 0 && next > 300
	})
	dead := 0
	t.Cleanup(func() { t.Logf("%d dead letters of %d", dead, 9+(next-31)/3) })
	within(t, time.Minute, "the key is still blocked", func() bool {
		dead = len(deadLetters(t, st, bus.DeadFilter{}))
		return dead == 9+(next-31)/3
	})
	fails.Store(false)
	if n, err := st.Redrive(t.Context(), bus.DeadFilter{}); err != nil || n != 9+(next-31)/3 {
		t.Fatalf("Redrive = %d, %v", n, err)
	}
	eventually(t, "all are handled", func() bool { return order.count("first")+order.count("second") == next-1 })
}

// Follow goes on across a switch without a gap.
func TestSwitchToWhileFollowing(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := ownBus(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got, done := make(chan int, 100), make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range bus.Replay(ctx, st, bus.Subject[int]("s.*"), bus.Follow()) {
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("Replay: %v", err)
				}
				return
			}
			got <- m.Data
		}
	}()
	receive(t, got)
	switchTo(t, b, target.ClientURL())
	storeNumbers(t, st, 11, 20)
	for want := 2; want <= 20; want++ {
		if n := receive(t, got); n != want {
			t.Fatalf("got %d, want %d", n, want)
		}
	}
	cancel()
	<-done
}

// SwitchTo uses what New was given to identify the bus. It warns of what only SwitchTo was told,
// since the next start does not know that. A dry run does, too, and does not log that it failed.
func TestSwitchToWithAccessOfNew(t *testing.T) {
	t.Parallel()
	target := newTarget(t, func(o *server.Options) { o.Username, o.Password = "ann", "secret" })
	url := target.ClientURL()
	inURL := strings.Replace(url, "nats://", "nats://ann:secret@", 1)
	log, lines := logTo(hclog.Info)
	unknown := openOn(t, t.TempDir(), log)
	report, err := unknown.SwitchTo(t.Context(), url, switchover.DryRun())
	asError[*bus.ConnectError](t, err, "Authorization Violation")
	if text := report.String(); !strings.HasPrefix(text, "cannot switch to nats://") || strings.Contains(text, "0 streams") {
		t.Errorf("the report of a refused login says %q", text)
	}
	for name, test := range map[string]struct {
		url  string
		opts []switchover.Option
	}{"option": {url, []switchover.Option{bus.WithUser("ann", "secret")}}, "URL": {inURL, nil}} {
		report, err := unknown.SwitchTo(t.Context(), test.url, append(test.opts, switchover.DryRun())...)
		must(t, err)
		if text := report.String(); !strings.Contains(text, "the next start cannot connect to the target: only SwitchTo was told what identifies the bus; give it to New") {
			t.Errorf("%s: the report has no warning: %s", name, text)
		}
	}
	must(t, second(newTargetJS(t, target, "ann", "secret").CreateStream(t.Context(), jetstream.StreamConfig{Name: "TAKEN"})))
	declare(t, unknown, bus.StreamConfig{Name: "TAKEN"})
	_, err = unknown.SwitchTo(t.Context(), inURL, switchover.DryRun())
	asError[*switchover.ObstacleError](t, err, `"TAKEN"`)
	if len(said(lines(t), "the switch to another server failed")) > 0 || len(said(lines(t), "a dry run found that the bus cannot switch to another server")) != 1 {
		t.Errorf("the log of dry runs: %v", lines(t))
	}
	known := openOn(t, t.TempDir(), bus.WithUser("ann", "secret"))
	if report := switchTo(t, known, url); len(report.Warnings) > 0 {
		t.Errorf("the warnings are %v", report.Warnings)
	}
	for target, want := range map[string]string{url: "this bus is at " + url + " and not at its embedded server; bring it home first", "embedded": `"embedded" would be the name of a host; switchover.Embedded ("embedded:") leads home`} {
		_, err = known.SwitchTo(t.Context(), target)
		asError[*bus.UnsupportedError](t, err, want)
	}
}

// newTargetJS returns a JetStream client of a target that has users.
func newTargetJS(t *testing.T, target *testserver.Server, user, password string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(target.ClientURL(), nats.UserInfo(user, password))
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	return js
}

// A start with the URL from which the streams have come home says so, and what to do.
func TestStartWithURLAfterHome(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	dir := t.TempDir()
	b := openOn(t, dir, bus.WithURL(target.ClientURL()))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 1)
	switchTo(t, b, switchover.Embedded)
	must(t, b.Close())
	_, err := quietBus(bus.WithStoreDir(dir), bus.WithURL(target.ClientURL()))
	asError[*bus.StoreError](t, err, "the server of WithURL does not have: SwitchTo has brought them home from "+target.ClientURL()+", at 20", "remove WithURL to use them")
}

// What an edge has in the way is its link, and not the client by which it watches that.
func TestSwitchOfAnEdge(t *testing.T) {
	t.Parallel()
	b := ownBus(t, bus.WithLeaf(bus.Leaf{URL: "nats-leaf://ann:s3cret@" + hubFor(t), Domain: "berlin"}))
	target := newTarget(t)
	_, err := b.SwitchTo(t.Context(), target.ClientURL())
	asError[*switchover.ObstacleError](t, err, "1 in the way", "is connected to other servers")
}

// The bus identifies itself to the new server by the options of SwitchTo, also if its own
// server knows it by a key, and again after the connection was lost. An attempt in vain leads
// back.
func TestSwitchToWithAccess(t *testing.T) {
	t.Parallel()
	serverTLS, clientTLS := newTLS(t)
	target := newTarget(t, func(o *server.Options) {
		o.Username, o.Password = "ann", "secret"
		o.TLSConfig, o.TLS, o.TLSTimeout = serverTLS, true, 5
	})
	b := openOn(t, t.TempDir(), anyPort(), bus.WithServerOptions(func(o *server.Options) {
		o.Users = []*server.User{{Username: "local", Password: "x"}}
	}))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 10)
	for name, opts := range map[string][]switchover.Option{
		"wrong password": {bus.WithUser("ann", "wrong"), bus.WithTLS(clientTLS)},
		"no authority":   {bus.WithUser("ann", "secret"), bus.WithTLS(&tls.Config{MinVersion: tls.VersionTLS13})},
		"nobody":         {bus.WithTLS(clientTLS)},
	} {
		_, err := b.SwitchTo(t.Context(), target.ClientURL(), opts...)
		if _, ok := errors.AsType[*bus.ConnectError](err); !ok {
			t.Errorf("%s: SwitchTo = %v", name, err)
		}
	}
	_, err := b.SwitchTo(t.Context(), target.ClientURL(), bus.WithUser("ann", "secret"), bus.WithToken("t"), switchover.MaxWait(0), switchover.CopyRate(-5), nil)
	asError[*bus.OptionError](t, err, "WithToken", "MaxWait(0s)", "CopyRate(-5)", "option 5")
	storeNumbers(t, st, 11, 20)
	switchTo(t, b, target.ClientURL(), bus.WithUser("ann", "secret"), bus.WithTLS(clientTLS))
	storeNumbers(t, st, 21, 30)
	target.Restart()
	eventually(t, "the bus is connected again", b.Conn().IsConnected)
	if got := storedNumbers(t, st); !slices.Equal(got, oneTo(30)) {
		t.Errorf("the stream has %v", got)
	}
}

// Each thing in the way is named, with what to do, all at once, and nothing is changed.
func TestSwitchToObstacles(t *testing.T) {
	t.Parallel()
	single := func(t *testing.T) (*testserver.Server, jetstream.JetStream) {
		target := newTarget(t)
		return target, clientOf(t, target.ClientURL())
	}
	for name, c := range map[string]struct {
		here   []bus.Option
		target func(t *testing.T, b *bus.Bus) (url string)
		want   []string
	}{
		"names": {nil, func(t *testing.T, _ *bus.Bus) string {
			target, js := single(t)
			for _, sc := range []jetstream.StreamConfig{{Name: "S"}, {Name: "OTHER", Subjects: []string{"s.a"}}} {
				_, err := js.CreateStream(t.Context(), sc)
				must(t, err)
			}
			return target.ClientURL()
		}, []string{`stream "S": the target has a stream with this name: no server can rename a stream: delete the one at the target`, `stream "S": stream "OTHER" of the target stores`}},
		"unfinished copy": {nil, func(t *testing.T, _ *bus.Bus) string {
			target, js := single(t)
			_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Metadata: map[string]string{"_omnibus.moving": "x"}})
			must(t, err)
			return target.ClientURL()
		}, []string{"an unfinished copy with this name, of another switch: wait for that switch, or delete the copy"}},
		"taken home by another switch": {nil, func(t *testing.T, _ *bus.Bus) string {
			target, js := single(t)
			for name, marks := range map[string]map[string]string{"S": {"_omnibus.moved": "x"}, "T": {"_omnibus.moved": "x", "_omnibus.left": "x"}} {
				must(t, second(js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{"$OMNIBUS.moved.x." + name}, Metadata: marks})))
			}
			return target.ClientURL()
		}, []string{"2 in the way", `stream "S": the target has a stream with this name that another switch is taking home, or was interrupted: wait for that switch`,
			`stream "T": the target has what a switch home left of a stream with this name: delete it there if this bus, or another one, has its messages`}},
		"too few streams": {nil, func(t *testing.T, _ *bus.Bus) string {
			target, js := single(t)
			must(t, second(js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER"})))
			must(t, target.NATS().GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {
				MaxMemory: -1, MaxStore: -1, MaxStreams: 1, MaxConsumers: -1, MaxAckPending: -1}}))
			return target.ClientURL()
		}, []string{"does not create a stream with 1 replicas: nats: API error: code=400 err_code=10027", "raise the limits of its account"}},
		"other clients": {[]bus.Option{anyPort()}, func(t *testing.T, b *bus.Bus) string {
			nc, err := nats.Connect(b.ClientURL(), nats.Name("billing"))
			must(t, err)
			t.Cleanup(nc.Close)
			target, _ := single(t)
			return target.ClientURL()
		}, []string{`1 other client is connected to the port of this bus ("billing" from 127.0.0.1:`, "disconnect them"}},
		"a client without a name": {[]bus.Option{anyPort()}, func(t *testing.T, b *bus.Bus) string {
			rawClient(t, b)
			target, _ := single(t)
			return target.ClientURL()
		}, []string{`1 other client is connected to the port of this bus ("" from 127.0.0.1:`, ", id "}},
		"many clients": {[]bus.Option{anyPort()}, func(t *testing.T, b *bus.Bus) string {
			for range 7 {
				rawClient(t, b)
			}
			target, _ := single(t)
			return target.ClientURL()
		}, []string{`7 other clients are connected to the port of this bus ("" from 127.0.0.1:`, "and 2 more)"}},
		"leaf link": {[]bus.Option{bus.WithServerOptions(func(o *server.Options) {
			o.LeafNode.Host, o.LeafNode.Port, o.LeafNode.Username, o.LeafNode.Password = "127.0.0.1", -1, "leaf", "x"
		})}, func(t *testing.T, _ *bus.Bus) string { return newTarget(t).ClientURL() },
			[]string{"connected to other servers", "start the bus without a cluster and without a leaf link"}},
		"no JetStream": {nil, func(t *testing.T, _ *bus.Bus) string { return testserver.New(t, testserver.WithPort).ClientURL() },
			[]string{"JetStream is off at the target: turn it on"}},
		"max payload": {nil, func(t *testing.T, _ *bus.Bus) string {
			return newTarget(t, func(o *server.Options) { o.MaxPayload = 100_000 }).ClientURL()
		}, []string{"the target accepts messages of 100000 bytes", "set its max_payload to 1048576"}},
		"permissions": {nil, func(t *testing.T, _ *bus.Bus) string {
			return annDenied(t, "$JS.API.STREAM.RESTORE.>", "$JS.SNAPSHOT.>", "$JS.ACK.>")
		}, []string{`streams cannot be restored at the target: its user may not publish to "$JS.API.STREAM.RESTORE.omnibus-probe-`, "let that user publish to $JS.API.STREAM.RESTORE.>;",
			`its user may not publish to "$JS.SNAPSHOT.RESTORE.omnibus-probe-`, `its user may not publish to "$JS.ACK.omnibus-probe-`, "in all it needs publish to $JS.API.>, $JS.ACK.>, $OMNIBUS.>,", "and $JS.SNAPSHOT.RESTORE.>, and subscribe to _INBOX_"}},
		"permissions of the library's own messages": {nil, func(t *testing.T, _ *bus.Bus) string { return annDenied(t, "$OMNIBUS.>") },
			[]string{"2 in the way", `consumers cannot store dead letters, retries and keys at the target: its user may not publish to "$OMNIBUS.dead.`,
				`processes cannot share durables with keys at the target: its user may not publish to "$OMNIBUS.crew.`, "let that user publish to $OMNIBUS.>; in all"}},
		"permissions of shared keys": {nil, func(t *testing.T, _ *bus.Bus) string {
			return newTarget(t, func(o *server.Options) {
				o.Users = []*server.User{{Username: "ann", Password: "x", Permissions: &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"$OMNIBUS.>"}}}}}
			}).ClientURL()
		}, []string{"1 in the way", `processes cannot share durables with keys at the target: its user may not subscribe to "$OMNIBUS.crew.`, "let that user subscribe to $OMNIBUS.>; in all"}},
		"permissions to reply": {nil, func(t *testing.T, _ *bus.Bus) string {
			return newTarget(t, func(o *server.Options) {
				o.Users = []*server.User{{Username: "ann", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"$JS.>", "$OMNIBUS.>"}}}}}
			}).ClientURL()
		}, []string{"1 in the way", `processes cannot share durables with keys at the target: its user may not publish to "_INBOX_`, "or allow_responses"}},
		"permissions of single calls": {nil, func(t *testing.T, _ *bus.Bus) string {
			return annDenied(t, "$JS.API.STREAM.INFO.>", "$JS.API.STREAM.UPDATE.>", "$JS.API.STREAM.PURGE.>", "$JS.API.STREAM.MSG.DELETE.>", "$JS.API.CONSUMER.INFO.>", "$JS.API.CONSUMER.MSG.NEXT.>")
		}, []string{"let that user publish to $JS.API.STREAM.INFO.>", "$JS.API.STREAM.UPDATE.>", "$JS.API.STREAM.PURGE.>", "$JS.API.STREAM.MSG.DELETE.>", "$JS.API.CONSUMER.INFO.>", "$JS.API.CONSUMER.MSG.NEXT.>"}},
		"replies": {nil, func(t *testing.T, _ *bus.Bus) string {
			return newTarget(t, func(o *server.Options) {
				o.Users = []*server.User{{Username: "ann", Password: "x", Permissions: &server.Permissions{Subscribe: &server.SubjectPermission{Allow: []string{"none"}}}}}
			}).ClientURL()
		}, []string{"1 in the way", `its user may not subscribe to "_INBOX_`, "let that user subscribe to _INBOX_", "WithInboxPrefix"}},
		"limits": {nil, func(t *testing.T, _ *bus.Bus) string {
			target, _ := single(t)
			must(t, target.NATS().GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {
				MaxMemory: 10, MaxStore: 10, MaxStreams: 1, MaxConsumers: 1, MaxAckPending: -1}}))
			return target.ClientURL()
		}, []string{"may have 10 bytes in memory", "may have 1 streams", "may have 1 consumers", "raise that limit"}},
		"limits on disk": {[]bus.Option{bus.WithStoreDir(t.TempDir())}, func(t *testing.T, _ *bus.Bus) string {
			target, _ := single(t)
			must(t, target.NATS().GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {
				MaxMemory: -1, MaxStore: 10, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1}}))
			return target.ClientURL()
		}, []string{"may have 10 bytes on disk and has 0", "raise that limit at the target"}},
		"room in memory": {nil, func(t *testing.T, _ *bus.Bus) string {
			return newTarget(t, func(o *server.Options) { o.JetStreamMaxMemory = 100 }).ClientURL()
		}, []string{"does not reserve the", "bytes in memory that the streams need: nats: API error: code=500 err_code=10028", "make room there, or raise its max_memory_store"}},
		"room on disk": {[]bus.Option{bus.WithStoreDir(t.TempDir())}, func(t *testing.T, _ *bus.Bus) string {
			return newTarget(t, func(o *server.Options) { o.JetStreamMaxStore = 100 }).ClientURL()
		}, []string{"does not reserve the", "bytes on disk that the streams need: nats: API error: code=500 err_code=10047", "make room there, or raise its max_file_store"}},
		"limits of a stream": {nil, func(t *testing.T, b *bus.Bus) string {
			target, _ := single(t)
			must(t, target.NATS().GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {
				MaxMemory: -1, MaxStore: -1, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: 5, MemoryMaxStreamBytes: 1000, MaxBytesRequired: true}}))
			_, err := b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "BIG", Storage: jetstream.MemoryStorage, MaxBytes: 2000})
			must(t, err)
			return target.ClientURL()
		}, []string{`stream "S": the account requires MaxBytes, which it does not have: set its MaxBytes`, `stream "S": consumer "c" may have`, "unacknowledged messages, and the account allows 5: raise that limit",
			`stream "BIG": its MaxBytes are 2000, and the account allows 1000 for a stream: raise that limit`}},
		"no permissions at all": {nil, func(t *testing.T, _ *bus.Bus) string { return annDenied(t, "$JS.>") },
			[]string{`the streams of the target cannot be listed: its user may not publish to "$JS.API.STREAM.LIST": let that user publish to $JS.API.STREAM.LIST;`, "the limits of the target cannot be asked for",
				`does not create a stream with 1 replicas: its user may not publish to "$JS.API.STREAM.CREATE.omnibus-probe-`, "let that user publish to $JS.API.STREAM.CREATE.>"}},
		"no deletion": {nil, func(t *testing.T, _ *bus.Bus) string { return annDenied(t, "$JS.API.STREAM.DELETE.>") },
			[]string{"does not delete the probe stream omnibus-probe-", `its user may not publish to "$JS.API.STREAM.DELETE.omnibus-probe-`, "let that user publish to $JS.API.STREAM.DELETE.>"}},
		"two targets": {nil, func(t *testing.T, _ *bus.Bus) string {
			return newTarget(t).ClientURL() + "," + newTarget(t).ClientURL()
		}, []string{"leads to other streams than the first URL", "servers of one cluster"}},
		"streams": {nil, func(t *testing.T, b *bus.Bus) string {
			for _, sc := range []jetstream.StreamConfig{
				{Name: "TAGS", Storage: jetstream.MemoryStorage, Placement: &jetstream.Placement{Tags: []string{"fast"}}},
				{Name: "DOMAIN", Storage: jetstream.MemoryStorage, Sources: []*jetstream.StreamSource{{Name: "S", External: &jetstream.ExternalStream{APIPrefix: "$JS." + domainOf(t, b) + ".API"}}}},
			} {
				_, err := b.JetStream().CreateStream(t.Context(), sc)
				must(t, err)
			}
			target, _ := single(t)
			return target.ClientURL()
		}, []string{`stream "TAGS": it is placed by tags`, `stream "DOMAIN": it copies stream "S" of this server by the name of its JetStream domain`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := ownBus(t, c.here...)
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			declare(t, b, bus.StreamConfig{Name: "T", Subjects: []string{"t.*"}})
			consume(t, st, "c", "s.*", ignore[int])
			consume(t, st, "d", "s.*", ignore[int])
			storeNumbers(t, st, 1, 10)
			url := c.target(t, b)
			before := streamNames(t, b.JetStream())
			report, err := b.SwitchTo(t.Context(), url, bus.WithUser("ann", "x")) // servers without users let everybody in
			asError[*switchover.ObstacleError](t, err, append(c.want, "nothing was changed")...)
			if strings.Contains(err.Error(), "too slow") || strings.Contains(err.Error(), "no answer came") {
				t.Errorf("it does not say what is missing: %v", err)
			}
			if !report.Failed || report.Waited != 0 || !slices.Equal(streamNames(t, b.JetStream()), before) {
				t.Errorf("report = %v; the streams are %v", report, streamNames(t, b.JetStream()))
			}
			storeNumbers(t, st, 11, 20)
			if got := storedNumbers(t, st); !slices.Equal(got, oneTo(20)) {
				t.Errorf("the stream has %v", got)
			}
		})
	}
}

// A permission that is missing for one stream is found when that is copied. It is told.
func TestSwitchToNamesAMissingPermission(t *testing.T) {
	t.Parallel()
	url := annDenied(t, "$JS.API.STREAM.RESTORE.S")
	b := ownBus(t)
	declare(t, b, bus.StreamConfig{Name: "S"})
	_, err := b.SwitchTo(t.Context(), url, bus.WithUser("ann", "x"), switchover.MaxWait(500*time.Millisecond))
	asError[*switchover.Error](t, err, `at the target its user may not publish to "$JS.API.STREAM.RESTORE.S": let that user publish to $JS.API.STREAM.RESTORE.S;`)
}

// One that is missing when the copies count does not make the switch fail, and nobody waits for it.
// The report says what is missing, and so does the log of the next start.
func TestSwitchToNamesAMissingPermissionAfterTheCommit(t *testing.T) {
	t.Parallel()
	url, dir := annDenied(t, "$JS.API.STREAM.UPDATE.S"), t.TempDir()
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	began := time.Now()
	report := switchTo(t, b, url, bus.WithUser("ann", "x"))
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("SwitchTo took %v", took)
	}
	const names = `"$JS.API.STREAM.UPDATE.S"`
	if all := fmt.Sprint(report.Warnings); !strings.Contains(all, "the mark of the switch is still on the streams [S]") ||
		!strings.Contains(all, `at the target its user may not publish to `+names+`: let that user publish to $JS.API.STREAM.UPDATE.S;`) {
		t.Errorf("the warnings are %v", all)
	}
	storeNumbers(t, st, 1, 10)
	must(t, b.Close())
	log, lines := logTo(hclog.Warn)
	openOn(t, dir, bus.WithUser("ann", "x"), log)
	if all := said(lines(t), "the mark of the switch is still on streams; the next start removes it"); len(all) != 1 ||
		!strings.Contains(fmt.Sprint(all), "the user of this connection may not publish there") {
		t.Errorf("the log says %v", all)
	}
}

// annDenied starts a target whose user ann, with the password x, may not publish to subjects.
func annDenied(t *testing.T, subjects ...string) (url string) {
	t.Helper()
	return newTarget(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "ann", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: subjects}}}}
	}).ClientURL()
}

// A cluster that cannot make three replicas, and a stream that cannot have any, are obstacles.
func TestSwitchToClusterObstacles(t *testing.T) {
	needsCluster(t)
	t.Parallel()
	t.Run("two servers", func(t *testing.T) {
		t.Parallel()
		_, urls := servers(t, 2)
		b := ownBus(t)
		declare(t, b, bus.StreamConfig{Name: "S"})
		_, err := b.SwitchTo(t.Context(), urls)
		asError[*switchover.ObstacleError](t, err, "does not create a stream with 3 replicas", "wait until all servers of the cluster are up", "it needs three with JetStream")
	})
	t.Run("asynchronous", func(t *testing.T) {
		t.Parallel()
		_, urls := servers(t, 3)
		b := openOn(t, t.TempDir())
		_, err := b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", PersistMode: jetstream.AsyncPersistMode})
		must(t, err)
		_, err = b.SwitchTo(t.Context(), urls)
		asError[*switchover.ObstacleError](t, err, `stream "S": it is persisted asynchronously, which no stream with replicas can be: create it without PersistMode`)
	})
}

// A URL that leads nowhere is no obstacle as long as another one leads to the target. The report
// says so.
func TestSwitchToNamesDeadURLs(t *testing.T) {
	t.Parallel()
	dead := fmt.Sprintf("nats://127.0.0.1:%d", testserver.FreePorts(t, 1)[0])
	b := ownBus(t)
	declare(t, b, bus.StreamConfig{Name: "S"})
	report, err := b.SwitchTo(t.Context(), newTarget(t).ClientURL()+","+dead, switchover.DryRun())
	must(t, err)
	if len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], dead+" cannot be reached") {
		t.Errorf("the warnings are %v", report.Warnings)
	}
}

// domainOf returns the JetStream domain of a bus.
func domainOf(t *testing.T, b *bus.Bus) string {
	t.Helper()
	info, err := b.JetStream().AccountInfo(t.Context())
	must(t, err)
	return info.Domain
}

// streamNames returns the names of all streams, sorted.
func streamNames(t *testing.T, js jetstream.JetStream) (all []string) {
	t.Helper()
	l := js.StreamNames(t.Context())
	for name := range l.Name() {
		all = append(all, name)
	}
	must(t, l.Err())
	slices.Sort(all)
	return all
}

// A dry run changes nothing, here and there. A switch that takes longer than MaxWait, or
// whose ctx ends, leads back, and leaves nothing at the target. Then it can be tried again.
func TestSwitchToGivesUp(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	there := clientOf(t, target.ClientURL())
	b := openOn(t, t.TempDir())
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	got := make(chan int, 200)
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil }, bus.KeyBySubject())
	storeNumbers(t, st, 1, 10)
	report, err := b.SwitchTo(t.Context(), target.ClientURL(), switchover.DryRun())
	if err != nil || !report.DryRun || report.Failed || len(report.Streams) != 3 || report.Waited != 0 {
		t.Errorf("a dry run: %+v, %v", report, err)
	}
	for _, wait := range []time.Duration{time.Nanosecond, time.Millisecond} { // the first is over before anything waits
		_, err = b.SwitchTo(t.Context(), target.ClientURL(), switchover.MaxWait(wait))
		asError[*switchover.Error](t, err, "MaxWait", "the bus is where it was")
	}
	storeNumbers(t, st, 11, 20)
	for _, phase := range []switchover.Phase{switchover.Hold, switchover.Cut, switchover.Copy, switchover.Verify, switchover.Commit} {
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err = b.SwitchTo(ctx, target.ClientURL(), switchover.OnProgress(func(p switchover.Progress) {
			if p.Phase == phase {
				cancel(errNo)
			}
		}))
		if e := asError[*switchover.Error](t, err, errNo.Error()); e.Committed || len(e.LeftBehind) > 0 {
			t.Errorf("%s: %+v", phase, e)
		}
		if names := streamNames(t, there); len(names) > 0 {
			t.Errorf("%s: the target has %v", phase, names)
		}
	}
	storeNumbers(t, st, 21, 30)
	switchTo(t, b, target.ClientURL())
	storeNumbers(t, st, 31, 40)
	if got := storedNumbers(t, st); !slices.Equal(got, oneTo(40)) {
		t.Errorf("the stream has %v", got)
	}
	handled := make(map[int]int)
	for range 40 {
		handled[receive(t, got)]++
	}
	if len(handled) != 40 {
		t.Errorf("handled %v", handled)
	}
	nothing(t, got)
}

// A bus that is closed while it switches goes back or ends the switch, and closes.
func TestCloseWhileSwitching(t *testing.T) {
	t.Parallel()
	for _, phase := range []switchover.Phase{switchover.Preflight, switchover.Hold, switchover.Copy, switchover.Release} {
		t.Run(string(phase), func(t *testing.T) {
			t.Parallel()
			target, dir := newTarget(t), t.TempDir()
			b := openOn(t, dir)
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			storeNumbers(t, st, 1, 10)
			closed := make(chan error, 1)
			var once sync.Once
			_, err := b.SwitchTo(t.Context(), target.ClientURL(), switchover.OnProgress(func(p switchover.Progress) {
				if p.Phase == phase {
					once.Do(func() { go func() { closed <- b.Close() }() })
				}
			}))
			must(t, receive(t, closed))
			if failed, ok := errors.AsType[*switchover.Error](err); err != nil && (!ok && !errors.Is(err, bus.ErrClosed) || ok && failed.Committed) {
				t.Errorf("SwitchTo = %v", err)
			}
			again := openOn(t, dir)
			st, err = again.LookupStream(t.Context(), "S")
			must(t, err)
			if got := storedNumbers(t, st); !slices.Equal(got, oneTo(10)) {
				t.Errorf("the stream has %v", got)
			}
		})
	}
}

// A consumer with keys that cannot share its durable at the new server is reported, and takes
// messages as soon as it can. Close ends its attempts.
func TestSwitchToWithKeysThatCannotBeShared(t *testing.T) {
	t.Parallel()
	for _, closes := range []bool{false, true} {
		t.Run(fmt.Sprintf("closes=%t", closes), func(t *testing.T) {
			t.Parallel()
			target := newTarget(t)
			there := clientOf(t, target.ClientURL())
			_, err := there.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"$OMNIBUS.keys.S.>"}})
			must(t, err)
			events, all := recordEvents()
			b := ownBus(t, events)
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			got := make(chan int, 10)
			con := consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil }, bus.KeyBySubject())
			switchTo(t, b, target.ClientURL())
			e := nextEvent(t, all, event.ConsumerStalled)
			if e.Durable != "c" || !strings.Contains(e.Err.Error(), "OTHER") && !strings.Contains(e.Err.Error(), "overlap") {
				t.Errorf("the event is %v", e)
			}
			storeNumbers(t, st, 1, 1)
			nothing(t, got)
			if closes {
				must(t, b.Close())
				receive(t, con.Done())
				return
			}
			must(t, there.DeleteStream(t.Context(), "OTHER"))
			receive(t, got)
		})
	}
}

// Copies that an interrupted switch may have left at another target are named, with what to do.
func TestSwitchToNamesWhatIsLeftElsewhere(t *testing.T) {
	t.Parallel()
	target, dir := newTarget(t), t.TempDir()
	b := openOn(t, dir)
	declare(t, b, bus.StreamConfig{Name: "S"})
	must(t, b.Close())
	journal := func(target string) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(dir, "switch.json"), fmt.Appendf(nil, `{"id":"abc","target":%q,"streams":["S"],"at":"2026-01-01T00:00:00Z"}`, target), 0o600))
	}
	journal("nats://elsewhere:4222")
	b = openOn(t, dir)
	const left = "copies that do not count may be there: delete those of the streams [S] whose metadata say _omnibus.moving=abc"
	report, err := b.SwitchTo(t.Context(), target.ClientURL(), switchover.DryRun())
	must(t, err)
	if len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], "nats://elsewhere:4222") || !strings.Contains(report.Warnings[0], left) {
		t.Errorf("the warnings are %v", report.Warnings)
	}
	journal(target.ClientURL())
	if report := switchTo(t, b, target.ClientURL()); len(report.Warnings) > 0 {
		t.Errorf("at the same target the warnings are %v", report.Warnings)
	}
}

// A consumer with keys needs one more stream at the target.
func TestSwitchToCountsNewStreams(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	b := ownBus(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	consume(t, st, "c", "s.*", ignore[int], bus.KeyBySubject())
	need := len(streamNames(t, b.JetStream())) + 1
	limit := func(streams int) {
		must(t, target.NATS().GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {
			MaxMemory: -1, MaxStore: -1, MaxStreams: streams, MaxConsumers: -1, MaxAckPending: -1}}))
	}
	limit(need - 1)
	_, err := b.SwitchTo(t.Context(), target.ClientURL())
	asError[*switchover.ObstacleError](t, err, fmt.Sprintf("may have %d streams and has 0; the streams need %d more", need-1, need))
	limit(-1)
	there := clientOf(t, target.ClientURL())
	must(t, second(there.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S-keys"})))
	_, err = b.SwitchTo(t.Context(), target.ClientURL())
	asError[*switchover.ObstacleError](t, err, `stream "S-keys": the target has a stream with this name`, "delete the one at the target")
	must(t, there.DeleteStream(t.Context(), "S-keys"))
	limit(need)
	switchTo(t, b, target.ClientURL())
}

// What an interrupted switch left takes no room from the next one. The target is a single server
// that has the name of a cluster.
func TestSwitchToRemovesCopiesFirst(t *testing.T) {
	t.Parallel()
	target := newTarget(t, func(o *server.Options) { o.Cluster.Name, o.JetStreamMaxStore = "shop", 24<<20 })
	there, dir := clientOf(t, target.ClientURL()), t.TempDir()
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S", MaxBytes: 16 << 20})
	must(t, second(bus.PublishTo(t.Context(), st, "S", 1)))
	must(t, b.Close())
	must(t, second(there.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", MaxBytes: 16 << 20, Metadata: map[string]string{"_omnibus.moving": "abc"}})))
	must(t, os.WriteFile(filepath.Join(dir, "switch.json"), fmt.Appendf(nil, `{"id":"abc","target":%q,"streams":["S"],"at":"2026-01-01T00:00:00Z"}`, target.ClientURL()), 0o600))
	b = openOn(t, dir)
	if report := switchTo(t, b, target.ClientURL()); report.Replicas != 1 || report.Messages != 1 {
		t.Errorf("got %+v", report)
	}
}

// A bus that never switches pays nothing for SwitchTo: each message has the allocations that it had
// before there was such a call, those of the server included.
func TestSwitchToCostsNothingUnused(t *testing.T) { //nolint:paralleltest // it counts all allocations of the process
	ctx := context.Background() // one that can end costs allocations
	handled := make(chan struct{}, 1)
	for _, tc := range []struct {
		name    string
		dir     string
		consume bool
		most    float64
	}{
		{"memory", "", false, 28},
		{"file", t.TempDir(), false, 30},
		{"memory, handled", "", true, 66},
	} {
		b := ownBus(t, bus.WithStoreDir(tc.dir), bus.WithSync(bus.SyncEvery(time.Minute)))
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		if tc.consume {
			consume(t, st, "c", "s.*", func(context.Context, *bus.Msg[[]byte]) error { handled <- struct{}{}; return nil })
		}
		payload := make([]byte, 128)
		got := testing.AllocsPerRun(2000, func() {
			if _, err := bus.PublishTo(ctx, st, "s.a", payload); err != nil {
				t.Error(err)
			}
			if tc.consume {
				<-handled
			}
		})
		if most := tc.most + float64(underRace(10, 0)); got > most { // there pools keep less
			t.Errorf("%s: %v allocations for each message, want at most %v", tc.name, got, most)
		}
	}
}
