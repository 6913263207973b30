package ownership

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

func owner(ps ...*process) (who *process) {
	for _, p := range ps {
		if p.Owns() {
			who = p
		}
	}
	return who
}

// mustNotOverlap fails the test if a key was handled in two places at once.
func (w *world) mustNotOverlap() {
	w.t.Helper()
	for _, o := range w.overlaps {
		w.t.Error(o)
	}
}

func TestOneMember(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(5, 20)
		p := w.join("a", 3)
		w.await()
		if p.Begun() != 100 || p.Ended() != 100 || p.InFlight() != 0 {
			t.Errorf("%d handler calls have begun, %d have ended", p.Begun(), p.Ended())
		}
		p.leave()
		w.mustNotOverlap()
	})
}

// A member that was never started leaves as well.
func TestMemberThatIsNotStarted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		l := w.dial(nil)
		defer l.Close()
		m, err := NewMember(Config{Link: l, Stream: names.stream, Durable: names.durable, ID: "x", TTL: ttl, Workers: 1, RequestTimeout: time.Second})
		must(t, err)
		must(t, m.Drain(t.Context()))
	})
}

// Where somebody removes the stream of the claims nothing is handled, which is told
// once; when it is there again things go on.
func TestClaimsThatAreRemoved(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.trouble = true
		p := w.join("a", 2)
		time.Sleep(ttl)
		must(t, w.js.DeleteStream(t.Context(), StreamOf("S")))
		time.Sleep(ttl)
		if p.Stalled() == nil || len(w.troubles) != 1 {
			t.Errorf("told: %v; now %v", w.troubles, p.Stalled())
		}
		w.publish(3, 20)
		w.declare()
		time.Sleep(2 * ttl)
		if p.Stalled() != nil || !p.Owns() {
			t.Errorf("%v, owner: %t", p.Stalled(), p.Owns())
		}
		w.await()
		p.leave()
	})
}

// A stream of claims that was removed and made anew repeats its epochs: the owner from
// before sees that the claim with its epoch is another's.
func TestClaimsThatAreMadeAnew(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(3, 1)
		a := w.join("a", 2)
		time.Sleep(ttl + ttl/8) // it has nothing to write, and is between two looks
		must(t, w.js.DeleteStream(t.Context(), StreamOf("S")))
		w.declare()
		b := w.join("b", 2)
		time.Sleep(ttl)
		if a.Owns() || !b.Owns() || w.lost["a"] != 1 {
			t.Errorf("owners: a %t, b %t; a lost the claim %d times", a.Owns(), b.Owns(), w.lost["a"])
		}
		w.publish(3, 20)
		w.await()
		a.leave()
		b.leave()
		w.mustNotOverlap()
	})
}

// Members that come take part at once, and those that go leave nothing behind.
func TestMembersShareTheWork(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(30, 20)
		a := w.join("a", 2)
		synctest.Wait()
		b, c := w.join("b", 2), w.join("c", 4)
		time.Sleep(2 * time.Second)
		b.leave()
		began := time.Now()
		w.await()
		took := time.Since(began)
		if a.Begun() == 0 || b.Begun() == 0 || c.Begun() < a.Begun() {
			t.Errorf("the members handled %d, %d and %d messages; the last has twice as many hands", a.Begun(), b.Begun(), c.Begun())
		}
		t.Logf("%d, %d, %d messages in %v", a.Begun(), b.Begun(), c.Begun(), took)
		for seq, n := range w.handled {
			if n != 1 {
				t.Errorf("message %d was handled %d times", seq, n)
			}
		}
		c.leave()
		a.leave()
		w.mustNotOverlap()
	})
}

// The owner that leaves hands over within a moment.
func TestHandOver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(10, 50)
		a := w.join("a", 2)
		synctest.Wait()
		b := w.join("b", 2)
		time.Sleep(time.Second)
		if owner(a, b) != a {
			t.Fatal("the first member is not the owner")
		}
		a.leave()
		began := time.Now()
		for owner(b) == nil {
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("the hand-over took %v", took)
		}
		w.await()
		for seq, n := range w.handled {
			if n != 1 {
				t.Errorf("message %d was handled %d times", seq, n)
			}
		}
		b.leave()
		w.mustNotOverlap()
	})
}

func TestMemberDies(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(10, 50)
		a := w.join("a", 2)
		synctest.Wait()
		b := w.join("b", 4)
		time.Sleep(time.Second)
		b.kill()
		w.await()
		a.leave()
	})
}

func TestOwnerDies(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(10, 50)
		a := w.join("a", 2)
		synctest.Wait()
		b, c := w.join("b", 2), w.join("c", 2)
		time.Sleep(time.Second)
		a.kill()
		began := time.Now()
		for owner(b, c) == nil {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took < ttl*3/4 || took > 2*ttl {
			t.Errorf("the next owner took over after %v", took)
		}
		w.await()
		b.leave()
		c.leave()
	})
}

// A member of whom nothing is heard for long is taken for dead; what it says later
// does not count, and it hears that.
func TestMemberStandsStill(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(10, 50)
		a := w.join("a", 2)
		synctest.Wait()
		b := w.join("b", 4)
		time.Sleep(time.Second)
		b.ice.freeze()
		time.Sleep(2 * ttl)
		b.ice.melt()
		w.await()
		if w.refused["b"] == 0 {
			t.Error("the late outcomes count")
		}
		a.leave()
		b.leave()
	})
}

// An owner of whom nothing is heard for long is superseded, and settles nothing any
// more when it comes back.
func TestOwnerStandsStill(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(10, 50)
		a := w.join("a", 4)
		synctest.Wait()
		b := w.join("b", 2)
		time.Sleep(time.Second)
		a.ice.freeze()
		time.Sleep(2 * ttl)
		if owner(b) == nil {
			t.Error("nobody has taken over")
		}
		a.ice.melt()
		time.Sleep(ttl)
		if owner(a) != nil || w.lost["a"] != 1 {
			t.Error("the old owner still thinks that it is one")
		}
		if w.refused["a"] == 0 {
			t.Error("its settlements were not refused")
		}
		w.await()
		b.leave()
		a.leave()
	})
}

// Members that live by different times go by the longer one.
func TestMembersWithDifferentTTLs(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(10, 50)
		a := w.joinWith("a", 2, ttl)
		synctest.Wait()
		b := w.joinWith("b", 2, ttl/8)
		time.Sleep(time.Second)
		a.ice.freeze()
		time.Sleep(ttl / 2)
		a.ice.melt()
		time.Sleep(ttl)
		if owner(a) == nil || owner(b) != nil {
			t.Error("the short-lived one has taken over")
		}
		w.await()
		b.leave()
		a.leave()
		w.mustNotOverlap()
	})
}

// Whatever happens when, each message is settled once and each key in order.
func TestMembersAtRandom(t *testing.T) {
	for range 3 {
		t.Run("", func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			inWorld(t, func(t *testing.T, w *world) {
				w.publish(12, 60)
				ps := []*process{w.join("p", 3)}
				for n := range 15 {
					time.Sleep(time.Duration(r.Int64N(int64(ttl))))
					i := r.IntN(len(ps))
					p := ps[i]
					switch op := r.IntN(4); {
					case op == 0 || len(ps) == 1:
						ps = append(ps, w.join(string(rune('A'+n)), 1+r.IntN(3)))
						continue
					case op == 1:
						p.leave()
					case op == 2:
						p.kill()
					default:
						p.ice.freeze()
						time.Sleep(time.Duration(r.Int64N(int64(3 * ttl))))
						p.ice.melt()
						continue
					}
					ps = append(ps[:i], ps[i+1:]...)
				}
				w.await()
				for _, p := range ps {
					p.leave()
				}
				t.Logf("%d messages, %d overlaps, refused %v", w.total, len(w.overlaps), w.refused)
			})
		})
	}
}

// A text that a message has no room for, even shortened, is replaced: without an outcome
// its key would stand still.
func TestTextOfAFailureThatDoesNotPass(t *testing.T) {
	inWorldWith(t, 1024, func(t *testing.T, w *world) {
		w.fails = errors.New(strings.Repeat("x", 2000))
		w.publish(6, 2)
		a := w.join("a", 1)
		synctest.Wait()
		b := w.join("b", 4)
		w.await()
		a.leave()
		b.leave()
		heard := 0
		for _, err := range w.failures {
			if f, ok := errors.AsType[*settle.Failure](err); ok {
				heard++
				if !strings.Contains(f.Text, "too long to be sent") {
					t.Errorf("the owner hears %q", f.Text)
				}
			}
		}
		if heard == 0 {
			t.Errorf("the owner hears of none of the member's %d failures", b.Begun())
		}
	})
}

// A message on its way to a busy member is not lost because the member beats twice before
// it has read that: then two would be at one key.
func TestJobThatIsReadLate(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		l := w.dial(nil)
		defer l.Close()
		w.publish(2, 1)
		a := w.join("a", 1)
		synctest.Wait() // it has one of the two
		given := 0
		late, err := l.Conn().Subscribe("$OMNIBUS.crew.S.d.run.late", func(*nats.Msg) { given++ })
		must(t, err)
		beat := func() {
			_, err := l.Conn().RequestWithContext(t.Context(), "$OMNIBUS.crew.S.d.lead.1", []byte(`{"beat":{"member":"late","hands":1,"running":[]}}`))
			must(t, err)
			synctest.Wait()
		}
		for range 4 { // as a member does that hears news, or that a message was refused
			beat()
		}
		if given != 1 || a.Begun() != 1 {
			t.Errorf("the member was given %d messages, and the owner has begun %d, want 1 and 1", given, a.Begun())
		}
		for range 8 {
			time.Sleep(ttl / 4)
			beat()
		}
		if given+int(a.Begun()) != 3 {
			t.Errorf("the lost message was not given out once more: %d, %d", given, a.Begun())
		}
		must(t, late.Unsubscribe())
		w.await()
		a.leave()
	})
}

// An owner may give a message to a member that has not read the answer to its first beat.
// The member refuses it, and says so at once: the owner would wait a TTL for it.
func TestJobThatComesBeforeTheAnswer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		l := w.dial(nil)
		defer l.Close()
		epoch, err := (&store{names, l}).acquireLease(t.Context(), lease{Member: "owner", TTL: ttl}, 0)
		must(t, err)
		given, refused := false, make(chan time.Time, 1)
		owner, err := l.Conn().Subscribe("$OMNIBUS.crew.S.d.lead.1", func(m *nats.Msg) {
			switch {
			case strings.Contains(string(m.Data), `"returned":true`):
				refused <- time.Now()
			case !given:
				given = true
				d := &wire.Delivery{In: wire.In{Subject: "a"}, Stored: &wire.Stored{Stream: "S", Sequence: 1, Deliveries: 1, Attempt: 1}}
				job := encodeAssignment(d, "$OMNIBUS.crew.S.d.run.b", "inbox", assignmentID{Epoch: epoch, Number: 1, Key: "a"})
				w.fail(l.Publish(&job))
				time.Sleep(time.Second) // it has it now
			}
			w.fail(m.Respond([]byte(`{"ok":true}`)))
		})
		must(t, err)
		began := time.Now()
		b := w.join("b", 1)
		time.Sleep(3 * time.Second)
		select {
		case at := <-refused:
			if took := at.Sub(began); took > 2*time.Second {
				t.Errorf("it was refused after %v", took)
			}
		default:
			t.Error("it was not refused")
		}
		must(t, errors.Join(append(w.failures, owner.Unsubscribe())...))
		b.leave()
	})
}
