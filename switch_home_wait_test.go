package bus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/switchover"
)

// Publishers do not wait for an embedded server that takes long to start again: the bus goes back
// when MaxWait is over.
func TestSwitchHomeWithALongRestart(t *testing.T) {
	t.Parallel()
	var starts atomic.Int32
	release := make(chan struct{})
	b := elsewhere(t, newTarget(t).ClientURL(), bus.WithTimeout(time.Minute), bus.WithServerOptions(func(*server.Options) {
		if starts.Add(1) == 2 {
			<-release
		}
	}))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	failed := make(chan error, 1)
	go func() {
		_, err := b.SwitchTo(t.Context(), switchover.Embedded, switchover.MaxWait(time.Second))
		failed <- err
	}()
	eventually(t, "the server starts again", func() bool { return starts.Load() == 2 })
	storeNumbers(t, st, 1, 10) // the first waits until the bus is back
	close(release)
	asError[*switchover.Error](t, receive(t, failed), "still being started again", "MaxWait", "the bus is where it was")
	goHome(t, b)
	storeNumbers(t, st, 11, 20)
}

// failHome has a switch home fail at a server that is away when the streams are to get their subjects
// back. end ends that server.
func failHome(t *testing.T, b *bus.Bus, end func()) error {
	t.Helper()
	var once sync.Once
	_, err := b.SwitchTo(t.Context(), switchover.Embedded, switchover.MaxWait(time.Second), switchover.OnProgress(func(p switchover.Progress) {
		if p.Phase == switchover.Cut {
			once.Do(end)
		}
	}))
	return err
}

// mustHaveSubjects waits until a stream has its subjects, and the bus is healthy.
func mustHaveSubjects(t *testing.T, b *bus.Bus) {
	t.Helper()
	within(t, time.Minute, "the bus is healthy", func() bool { return b.Health(t.Context()).Status == health.Healthy })
	if c := streamInfo(t, b, "S").Config; !slices.Equal(c.Subjects, []string{"s.*"}) || c.Metadata["_omnibus.moved"] != "" {
		t.Errorf("the stream is %+v", c)
	}
}

// isFencedEvent reports whether an event says that streams do not have their subjects.
func isFencedEvent(e event.Event) bool {
	_, fenced := errors.AsType[*switchover.FencedError](e.Err)
	return fenced && e.Kind == event.ServerError
}

// A server that is away when a switch home goes back gets the subjects of its streams back when it is
// there again. Nobody has to do anything for that, and everybody is told. So it is when the next
// switch home does it.
func TestSwitchHomeGivesSubjectsBackLater(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("next switch %v", again), func(t *testing.T) {
			t.Parallel()
			all, urls := servers(t, 1)
			log, lines := logTo(hclog.Info)
			var told atomic.Int32
			b := elsewhere(t, urls, bus.WithTimeout(time.Minute), log, bus.WithEvents(func(e event.Event) {
				if isFencedEvent(e) {
					told.Add(1)
				}
			}))
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			storeNumbers(t, st, 1, 10)
			err := failHome(t, b, all[0].end)
			asError[*switchover.Error](t, err)
			if fenced := asError[*switchover.FencedError](t, err, "nobody can store in 1 stream (S) at "+urls, "no answer within 1s", "keep it running"); !slices.Equal(fenced.Streams, []string{"S"}) || fenced.Target != urls {
				t.Errorf("the error is %#v", fenced)
			}
			if r := b.Health(t.Context()); r.Status != health.Failed || !strings.Contains(fmt.Sprint(r.Problems), "nobody can store in 1 stream (S)") {
				t.Errorf("the health is %+v", r)
			}
			eventually(t, "an event says it", func() bool { return told.Load() == 1 })
			all[0].start()
			if again {
				within(t, time.Minute, "the bus is connected", b.Conn().IsConnected)
				goHome(t, b)
			}
			mustHaveSubjects(t, b)
			storeNumbers(t, st, 11, 20)
			if !again {
				goHome(t, b)
			}
			if got := storedNumbers(t, st); !slices.Equal(got, oneTo(20)) {
				t.Errorf("the stream has %v", got)
			}
			begun, over := said(lines(t), "server error"), said(lines(t), "the streams have the subjects back that a switch home had taken; stores go on at the server")
			if len(begun) != 1 || len(over) != 1 || told.Load() != 1 {
				t.Errorf("the log says %v and %v, and there were %d events", begun, over, told.Load())
			}
		})
	}
}

// A bus that ends while streams do not have their subjects does not try any more. The next one with its
// store directory does, as soon as the server is there.
func TestClosedWhileFenced(t *testing.T) {
	t.Parallel()
	all, urls := servers(t, 1)
	dir := t.TempDir()
	b := openOn(t, dir, bus.WithURL(urls), bus.WithTimeout(time.Minute))
	storeNumbers(t, declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}}), 1, 10)
	asError[*switchover.FencedError](t, failHome(t, b, all[0].end))
	must(t, b.Close())
	mustGiveBackAtStart(t, dir, all[0])
}

// A process that is killed while streams do not have their subjects has a journal that says so: the
// next start gives them back.
func TestKilledWhileFenced(t *testing.T) {
	if dir := victimDir(t); dir != "" {
		stayFenced(t, dir)
		return
	}
	t.Parallel()
	all, urls := servers(t, 1)
	dir := t.TempDir()
	startVictim(t, dir, envTarget+"="+urls).kill(t, func(line string) bool {
		if line == "cut" {
			all[0].end()
		}
		return line != "fenced"
	})
	mustGiveBackAtStart(t, dir, all[0])
}

// stayFenced is the child: its switch home fails at a server that the parent ends, and it waits to be
// killed.
func stayFenced(t *testing.T, dir string) {
	url := os.Getenv(envTarget)
	b := openOn(t, dir, bus.WithURL(url), bus.WithTimeout(time.Minute))
	storeNumbers(t, declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}}), 1, 10)
	err := failHome(t, b, func() {
		say("cut")
		eventually(t, "the server is away", func() bool {
			nc, err := nats.Connect(url)
			if err == nil {
				nc.Close()
			}
			return err != nil
		})
	})
	asError[*switchover.FencedError](t, err)
	say("fenced")
	receive(t, make(chan int)) // until the kill arrives
}

// A bus that starts while another one brings the streams of the directory home says so in its Health
// until that is over, whether they come home or not.
func TestStartWhileAnotherSwitchesHome(t *testing.T) {
	t.Parallel()
	for _, comes := range []bool{false, true} {
		t.Run(fmt.Sprintf("comes home %v", comes), func(t *testing.T) {
			t.Parallel()
			target, dir := newTarget(t), t.TempDir()
			first := openOn(t, dir, bus.WithURL(target.ClientURL()), bus.WithTimeout(time.Minute))
			storeNumbers(t, declare(t, first, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}}), 1, 10)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			fenced, started, ended := make(chan int), make(chan int), make(chan error, 1)
			go func() {
				_, err := first.SwitchTo(ctx, switchover.Embedded, at(switchover.Verify, func() {
					close(fenced)
					<-started
				}), switchover.MaxWait(time.Minute))
				ended <- err
			}()
			receive(t, fenced)
			log, lines := logTo(hclog.Warn)
			second := openWhileLocked(t, dir, log)
			if !comes {
				cancel()
			}
			close(started)
			if err := receive(t, ended); (err == nil) != comes {
				t.Errorf("SwitchTo = %v", err)
			}
			within(t, time.Minute, "the second bus is healthy", func() bool { return second.Health(t.Context()).Status == health.Healthy })
			if got := streamInfo(t, second, "S").Config.Subjects; slices.Equal(got, []string{"s.*"}) == comes {
				t.Errorf("the subjects at the server are %v", got)
			}
			if n := len(lines(t)); n != 1 {
				t.Errorf("the log has %v", lines(t))
			}
		})
	}
}

// A bus that starts while another process brings the streams home gives them their subjects back when
// that is killed.
func TestStartBeforeAnotherIsKilled(t *testing.T) {
	if dir := victimDir(t); dir != "" {
		b := openOn(t, dir, bus.WithURL(os.Getenv(envTarget)), bus.WithTimeout(time.Minute))
		storeNumbers(t, declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}}), 1, 10)
		_, _ = b.SwitchTo(t.Context(), switchover.Embedded, at(switchover.Verify, func() {
			say("fenced")
			receive(t, make(chan int)) // until the kill arrives
		}), switchover.MaxWait(time.Minute))
		return
	}
	t.Parallel()
	target, dir := newTarget(t), t.TempDir()
	var b *bus.Bus
	startVictim(t, dir, envTarget+"="+target.ClientURL()).kill(t, func(line string) bool {
		if line == "fenced" {
			b = openWhileLocked(t, dir)
		}
		return line != "fenced"
	})
	mustHaveSubjects(t, b)
	st := lookUp(t, b, "S")
	storeNumbers(t, st, 11, 20)
	if got := storedNumbers(t, st); !slices.Equal(got, oneTo(20)) {
		t.Errorf("the stream has %v", got)
	}
	goHome(t, b)
}

// openWhileLocked opens a store directory while another bus brings its streams home.
func openWhileLocked(t *testing.T, dir string, opts ...bus.Option) *bus.Bus {
	t.Helper()
	b := openOn(t, dir, append(opts, bus.WithTimeout(time.Minute))...)
	if r := b.Health(t.Context()); r.Status != health.Degraded || !strings.Contains(fmt.Sprint(r.Problems), "another process is bringing the streams of the store directory home") {
		t.Errorf("the health is %+v", r)
	}
	return b
}

// mustGiveBackAtStart opens a store directory when the server that has its streams is away, and when it
// is there again.
func mustGiveBackAtStart(t *testing.T, dir string, away *serverProcess) {
	t.Helper()
	_, err := quietBus(bus.WithStoreDir(dir), bus.WithTimeout(time.Second))
	asError[*switchover.MovedError](t, err, away.url(), "cannot be used now")
	away.start()
	b := openOn(t, dir, bus.WithTimeout(time.Minute)) // the journal says where the streams are
	mustHaveSubjects(t, b)
	st := lookUp(t, b, "S")
	storeNumbers(t, st, 11, 20)
	if got := storedNumbers(t, st); !slices.Equal(got, oneTo(20)) {
		t.Errorf("the stream has %v", got)
	}
	goHome(t, b)
}

// A stream that somebody deletes while its switch home goes on gets nothing back. Publishers do not
// wait for it, the error and the log say so, and the others get their subjects.
func TestDeletedWhileFenced(t *testing.T) {
	t.Parallel()
	for _, phase := range []switchover.Phase{switchover.Copy, switchover.Verify, switchover.Commit} {
		t.Run(string(phase), func(t *testing.T) {
			t.Parallel()
			target := newTarget(t)
			b := elsewhere(t, target.ClientURL(), bus.WithTimeout(time.Minute))
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			declare(t, b, bus.StreamConfig{Name: "T", Subjects: []string{"t"}})
			js := clientOf(t, target.ClientURL())
			var once sync.Once
			report, err := b.SwitchTo(t.Context(), switchover.Embedded, switchover.MaxWait(time.Minute), switchover.OnProgress(func(p switchover.Progress) {
				if p.Phase == phase {
					once.Do(func() { must(t, js.DeleteStream(t.Context(), "T")) })
				}
			}))
			asError[*switchover.Error](t, err, "somebody has deleted the streams [T] at the old servers", "the bus is where it was")
			if report.Waited > 30*time.Second {
				t.Errorf("publishers waited for %v", report.Waited)
			}
			storeNumbers(t, st, 1, 3)
			mustHaveSubjects(t, b)
		})
	}
}
