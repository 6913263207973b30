package intake_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

func TestDurableDrainGivesBackWhatWasNotBegun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		var calls []uint64
		d := open(t, o, 1, func(del wire.Delivery) settle.Outcome {
			calls = append(calls, del.Stored.Sequence)
			if del.Stored.Sequence == 1 {
				return failed
			}
			time.Sleep(10 * time.Second)
			if del.Stored.Sequence == 3 {
				return failed
			}
			return done
		})
		d.Start()
		r := o.pulled()
		for seq := range uint64(50) {
			o.send(r.inbox, seq+1, 1)
		}
		// 1 has failed and waits, 2 was handled, 3 runs and will fail, the rest waits.
		synctest.Wait()
		time.Sleep(15 * time.Second)
		began := time.Now()
		d.drained(t)
		if waited := time.Since(began); waited != 5*time.Second {
			t.Errorf("Drain took %v, want the 5 s that the handler needs", waited)
		}
		_, all := o.all()
		got := make(map[uint64]string)
		for _, x := range all {
			if x.body == "+WPI" {
				continue
			}
			if before := got[x.seq]; before != "" && before != x.body {
				t.Errorf("message %d was settled with %s and %s", x.seq, before, x.body)
			}
			got[x.seq] = x.body
		}
		for seq := range uint64(50) {
			want := "-NAK 0s"
			if seq+1 == 2 {
				want = "+ACK"
			}
			if got[seq+1] != want {
				t.Errorf("message %d was settled with %q, want %s", seq+1, got[seq+1], want)
			}
		}
		if slices.Max(calls) > 3 && !slices.Contains(calls, 1) {
			t.Errorf("called for %v", calls)
		}
	})
}

// Whatever Drain meets (queued, running, failing, ripe for a retry), each message
// ends settled, and no handler begins once it has returned.
func TestDurableDrainAtAnyMoment(t *testing.T) {
	t.Parallel()
	for round := range 60 {
		seed := uint64(round)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 6))
			o := newFakeServer(t)
			var over atomic.Bool
			var late atomic.Int64
			var n atomic.Uint64
			outcomes := []settle.Outcome{done, failed, after(0), after(time.Microsecond), after(time.Hour)}
			d := open(t, o, 1+rnd.IntN(8), func(wire.Delivery) settle.Outcome {
				if over.Load() {
					late.Add(1)
				}
				return outcomes[n.Add(7)%uint64(len(outcomes))]
			})
			d.Start()
			r := o.pulled()
			sent := uint64(rnd.IntN(window))
			for seq := range sent {
				o.send(r.inbox, seq+1, 1)
			}
			o.flush()
			for range rnd.IntN(5000) {
				d.InFlight() // some random time
			}
			d.drained(t)
			over.Store(true)
			if err := o.link.Flush(t.Context(), time.Second); err != nil {
				t.Fatal(err)
			}
			seen := make(map[uint64]bool)
			err := waitFor(t, func() bool {
				_, all := o.all()
				for _, x := range all {
					seen[x.seq] = seen[x.seq] || x.body != "+WPI"
				}
				return len(seen) == int(sent)
			})
			if err != nil {
				t.Errorf("seed %d: %d of %d messages were settled", seed, len(seen), sent)
			}
			if late.Load() > 0 || d.InFlight() > 0 {
				t.Errorf("seed %d: %d handlers began after Drain, %d run", seed, late.Load(), d.InFlight())
			}
		})
	}
}

func TestDurableDrainGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		limit time.Duration
	}{{"after a while", 10 * time.Second}, {"at once", 0}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := newFakeServer(t)
				var calls atomic.Int64
				begun, release := make(chan struct{}, 50), make(chan struct{})
				d := open(t, o, 1, func(wire.Delivery) settle.Outcome {
					calls.Add(1)
					begun <- struct{}{}
					<-release
					return failed
				})
				d.Start()
				r := o.pulled()
				for seq := range uint64(50) {
					o.send(r.inbox, seq+1, 1)
				}
				<-begun // Drain has nothing to give up otherwise
				if c.limit > 0 {
					synctest.Wait()
				} else {
					o.flush() // some may still be on the way
				}
				ctx, cancel := context.WithTimeout(t.Context(), c.limit)
				defer cancel()
				began := time.Now()
				if err := d.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				if waited := time.Since(began); waited != c.limit {
					t.Errorf("Drain took %v with %v left", waited, c.limit)
				}
				if !closed(d.Done()) {
					t.Error("Done is open after Drain")
				}
				close(release)
				synctest.Wait()
				if calls.Load() > 1 {
					t.Errorf("%d handlers began after Drain", calls.Load()-1)
				}
				if msgs, _ := d.Pending(); msgs != 0 {
					t.Errorf("%d messages wait after the end", msgs)
				}
			})
		})
	}
}

// handbacks is a Recovery of what was returned, and of nothing else.
type handbacks struct {
	returned []uint64
	then     func() // is called each time, if it is not nil
}

func (h *handbacks) Restore(wire.Delivery)                    {}
func (h *handbacks) MayRun(wire.Delivery) (bool, error)       { return false, nil }
func (h *handbacks) MarkStarted(wire.Delivery) (error, error) { return nil, nil }
func (h *handbacks) MarkEnded(wire.Delivery)                  {}

func (h *handbacks) RecordHandback(_ context.Context, ds []wire.Delivery) {
	for _, del := range ds {
		h.returned = append(h.returned, del.Stored.Sequence)
	}
	if h.then != nil {
		h.then()
	}
}

// What comes to the queue when that has stopped is recorded like what was in it.
func TestDurableDrainRecordsWhatComesLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		var records handbacks
		release := make(chan struct{})
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { <-release; return done },
			func(c *intake.DurableConfig) { c.Recovery = &records })
		d.Start()
		r := o.pulled()
		records.then = func() {
			if len(records.returned) == 1 {
				o.send(r.inbox, 3, 1)
				synctest.Wait()
			}
		}
		o.send(r.inbox, 1, 1)
		o.send(r.inbox, 2, 1)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Drain(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if !slices.Equal(records.returned, []uint64{2, 3}) {
			t.Errorf("recorded were %v", records.returned)
		}
		for _, seq := range records.returned {
			if got := o.settled(); got.seq != seq || got.body != "-NAK 0s" {
				t.Errorf("message %d was settled with %+v", seq, got)
			}
		}
		close(release)
	})
}

func TestDurableDrainBeforeStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { return done })
		d.drained(t)
		d.Start() // too late, as when the bus closes during Consume
		time.Sleep(time.Hour)
		if more, _ := o.all(); len(more) > 0 {
			t.Errorf("it asked for %+v after its end", more)
		}
	})
}

func TestDurableDrainFromItsHandler(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 4} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := newFakeServer(t)
				returned := make(chan error, 1)
				var d *durable
				d = open(t, o, concurrency, func(del wire.Delivery) settle.Outcome {
					if del.Stored.Sequence == 1 {
						time.Sleep(time.Second)
						returned <- d.Drain(dispatch.FromCaller(t.Context()))
						return done
					}
					time.Sleep(2 * time.Second)
					return done
				})
				d.Start()
				r := o.pulled()
				for seq := range uint64(20) {
					o.send(r.inbox, seq+1, 1)
				}
				if err := <-returned; err != nil {
					t.Errorf("got %v", err)
				}
				settled := make(map[uint64]string)
				for len(settled) < 20 {
					x := o.settled()
					settled[x.seq] = x.body
				}
				for seq, body := range settled {
					want := "-NAK 0s"
					if seq <= uint64(concurrency) {
						want = "+ACK"
					}
					if body != want {
						t.Errorf("message %d was settled with %s, want %s", seq, body, want)
					}
				}
			})
		})
	}
}

func TestDurableDrainOnAClosedConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		var begun, running atomic.Int64
		d, err := intake.OpenDurable(o.link, intake.DurableConfig{
			Source: intake.Source{Next: nextSubject}, Concurrency: 1, Window: window, AckWait: time.Minute, Timeout: time.Second,
			Run: func(wire.Delivery) settle.Outcome {
				begun.Add(1)
				running.Add(1)
				time.Sleep(time.Minute)
				running.Add(-1)
				return done
			},
			Settling: func(wire.Delivery, string) func(error) { return func(error) {} },
			Report:   func(error) {},
		})
		if err != nil {
			t.Fatal(err)
		}
		d.Start()
		r := o.pulled()
		for seq := range uint64(10) {
			o.send(r.inbox, seq+1, 1)
		}
		synctest.Wait()
		o.link.Close()
		_ = d.Drain(t.Context()) // it may say that the acknowledgement got lost
		if running.Load() != 0 {
			t.Error("Drain returned while a handler ran")
		}
		time.Sleep(time.Hour)
		if begun.Load() != 1 {
			t.Errorf("%d handlers began after the connection was closed", begun.Load()-1)
		}
	})
}
