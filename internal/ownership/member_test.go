package ownership

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

func TestOneMember(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(5, 20)
		p := w.join("a", 3)
		w.await()
		if p.Begun() != 100 || p.Ended() != 100 || p.InFlight() != 0 {
			t.Errorf("%d handler calls have begun, %d have ended", p.Begun(), p.Ended())
		}
		p.drain()
		w.mustNotOverlap()
	})
}

// Members that join take part at once, and those that leave lose nothing.
func TestMembersShareTheWork(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(30, 20)
		a := w.join("a", 2)
		synctest.Wait()
		b, c := w.join("b", 2), w.join("c", 4)
		time.Sleep(2 * time.Second)
		b.drain()
		began := time.Now()
		w.await()
		took := time.Since(began)
		if a.Begun() == 0 || b.Begun() == 0 || c.Begun() < a.Begun() {
			t.Errorf("the members handled %d, %d and %d messages; the last has twice as many workers", a.Begun(), b.Begun(), c.Begun())
		}
		t.Logf("%d, %d, %d messages in %v", a.Begun(), b.Begun(), c.Begun(), took)
		for seq, n := range w.handled {
			if n != 1 {
				t.Errorf("message %d was handled %d times", seq, n)
			}
		}
		c.drain()
		a.drain()
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
						p.drain()
					case op == 2:
						p.kill()
					default:
						p.suspend()
						time.Sleep(time.Duration(r.Int64N(int64(3 * ttl))))
						p.resume()
						continue
					}
					ps = append(ps[:i], ps[i+1:]...)
				}
				w.await()
				for _, p := range ps {
					p.drain()
				}
				t.Logf("%d messages, %d overlaps, refused %v", w.total, len(w.overlaps), w.refused)
			})
		})
	}
}
