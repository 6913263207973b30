package bus_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// While a durable is paused nothing comes to any member, new or once more; when that
// ends everything does.
func TestConsumerPause(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		until time.Duration // 0: until Resume
	}{{"until a time", 20 * time.Minute}, {"until Resume", 0}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			record, events := recordEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				var got, other ledger
				con := consume(t, st, "d", "S", func(ctx context.Context, m *bus.Msg[int]) error {
					if m.Data == 0 && m.Attempt == 1 {
						return bus.RetryAfter(5*time.Minute, errors.New("in 5 minutes"))
					}
					return got.handle(ctx, m)
				})
				consume(t, st, "other", "S", other.handle)
				storeRange(t, st, "S", 0, 1)
				synctest.Wait()
				nextEvent(t, events, event.Retry)
				until := time.Time{}
				if tc.until > 0 {
					until = time.Now().Add(tc.until)
				}
				must(t, con.Pause(t.Context(), until))
				storeRange(t, st, "S", 1, 20)
				pass(20*time.Minute - time.Second)
				// A member that comes meanwhile is paused, too.
				must(t, consume(t, st, "d", "S", got.handle, bus.AckWait(20*time.Second)).Drain(t.Context()))
				if n := got.distinct(); n != 0 {
					t.Errorf("%d messages were handled meanwhile", n)
				}
				if l, err := con.Lag(t.Context()); err != nil || l.Waiting != 19 || time.Until(l.PausedUntil) < time.Second {
					t.Errorf("the lag is %+v, %v", l, err)
				}
				other.mustBeOnce(t, 20)
				if tc.until == 0 {
					must(t, con.Resume(t.Context()))
					if pass(time.Millisecond); got.distinct() != 20 {
						t.Errorf("a moment after Resume %d messages were handled", got.distinct())
					}
				}
				pass(time.Minute)
				if l, err := con.Lag(t.Context()); err != nil || !l.PausedUntil.IsZero() {
					t.Errorf("the lag is %+v, %v", l, err)
				}
				got.mustBeOnce(t, 20)
				nothing(t, events)
				must(t, con.Drain(t.Context()))
				mustBeDone(t, b, "S", "d")
			}, record, bus.WithLogger(silent()))
		})
	}
}

func TestPauseMistakes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	con := consume(t, st, "d", "S", ignore[int])
	asError[*bus.OptionError](t, con.Pause(t.Context(), time.Now().Add(-time.Hour)), "until has passed")
	asError[*bus.OptionError](t, con.Pause(nil, time.Time{}), "ctx is nil") //nolint:staticcheck // that is the point
	asError[*bus.OptionError](t, con.Resume(nil), "ctx is nil")             //nolint:staticcheck // that is the point
	var none *bus.Consumer
	asError[*bus.OptionError](t, none.Pause(t.Context(), time.Time{}), "Pause: consumer is nil")
	asError[*bus.OptionError](t, none.Resume(t.Context()), "Resume: consumer is nil")
	asError[*bus.OptionError](t, none.Rewind(t.Context(), bus.StartAtFirst()), "Rewind: consumer is nil")
	must(t, none.Drain(t.Context()))
	none.Stop()
	must(t, none.Err())
	receive(t, none.Done())
	must(t, con.Resume(t.Context())) // it is not paused
	must(t, b.JetStream().DeleteConsumer(t.Context(), "S", "d"))
	receive(t, con.Done())
	isError(t, con.Pause(t.Context(), time.Time{}), bus.ErrClosed, "Pause")
	isError(t, con.Resume(t.Context()), bus.ErrClosed, "Resume")
	must(t, b.Close())
	isError(t, con.Pause(t.Context(), time.Time{}), bus.ErrClosed)
}

// A server that is too old is told apart from one that does not answer.
func TestOldServersCannotPause(t *testing.T) {
	t.Parallel()
	b, home, r, events := remote(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage})
	con := consume(t, st, "d", "S", ignore[int])
	for version, wants := range map[string][]string{
		"2.10.29": {"Pause needs nats-server 2.11 or newer, and the server is 2.10.29: upgrade the server, or ", "Rewind needs nats-server 2.14 or newer"},
		"2.12.15": {"", "Rewind needs nats-server 2.14 or newer, and the server is 2.12.15: upgrade the server, or consume by another durable"},
	} {
		rewrite := func(p []byte) []byte {
			return versionInInfo.ReplaceAll(p, []byte(`"version":"`+version+`"`))
		}
		r.rewrite.Store(&rewrite)
		r.cut(false)
		awaitEvent(t, events, event.Reconnected)
		for i, call := range []func() error{
			func() error { return errors.Join(con.Pause(t.Context(), time.Time{}), con.Resume(t.Context())) },
			func() error { return con.Rewind(t.Context(), bus.StartAtFirst()) },
		} {
			if err := call(); wants[i] == "" {
				must(t, err)
			} else if e := asError[*bus.UnsupportedError](t, err, wants[i]); e.Server != version {
				t.Errorf("got %+v", e)
			}
		}
	}
	if until := consumerInfo(t, home, "S", "d").Config.PauseUntil; until != nil && !until.IsZero() {
		t.Errorf("it is paused until %v", until)
	}
}
