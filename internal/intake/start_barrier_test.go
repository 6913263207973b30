package intake

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// gateModel is a consumer on a server, and a member that keeps a barrier. Messages are
// numbered as in the stream.
type gateModel struct {
	barrier   startBarrier
	delivered uint64            // the last number that was given
	next      uint64            // message to be sent for the first time
	out       map[uint64]uint64 // messages that are out, and the number of their latest delivery
	held      map[uint64]uint64 // likewise, of those that are with the member
	done      map[uint64]bool   // messages that the member has finished
	wire      []modelWord       // on its way to the member
}

// modelWord is a delivery, or an answer about the consumer.
type modelWord struct {
	message, number uint64
	answer          bool
	out             int
}

// deliver sends a message to the member, or to nobody.
func (m *gateModel) deliver(message uint64, lost bool) {
	m.delivered++
	m.out[message] = m.delivered
	if !lost {
		m.wire = append(m.wire, modelWord{message: message, number: m.delivered})
	}
}

// hear has the member take the first word that is on its way.
func (m *gateModel) hear() {
	w := m.wire[0]
	m.wire = m.wire[1:]
	if !w.answer {
		if !m.barrier.delivered(w.number) {
			m.barrier.close(time.Now())
		}
		if m.done[w.message] { // it was sent again before that was heard; it is said again
			delete(m.out, w.message)
		} else {
			m.held[w.message] = w.number
		}
		return
	}
	here := 0
	for _, number := range m.held {
		if number <= w.number {
			here++
		}
	}
	m.barrier.answer(time.Now(), w.number, w.out, here)
}

// sound is whether, with an open barrier, all that was delivered up to the last one that
// arrived is here or done. What comes later makes a gap when it is lost.
func (m *gateModel) sound() bool {
	if !m.barrier.open {
		return true
	}
	for message, number := range m.out {
		if _, here := m.held[message]; !here && number <= m.barrier.last {
			return false
		}
	}
	return true
}

// settle has the member finish one of the messages that it may.
func (m *gateModel) settle(r *rand.Rand) {
	if held := slices.Collect(maps.Keys(m.held)); len(held) > 0 && m.barrier.open {
		message := held[r.IntN(len(held))]
		delete(m.held, message)
		delete(m.out, message)
		m.done[message] = true
	}
}

// reconnect loses what is on its way; the member shuts its barrier.
func (m *gateModel) reconnect() {
	m.wire = nil
	m.barrier.close(time.Now())
}

// Whatever is lost and whoever else takes messages: an open barrier has all that was given
// out before what is here. And it opens once everything comes back.
func TestGateAtRandom(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	opened := 0
	for range 300 {
		m := &gateModel{out: make(map[uint64]uint64), held: make(map[uint64]uint64), done: make(map[uint64]bool)}
		m.barrier.close(time.Now())
		for step := range 400 {
			switch n := r.IntN(100); {
			case n < 30:
				m.next++
				m.deliver(m.next, r.IntN(20) == 0)
			case n < 40: // what is out comes again after a while
				if out := slices.Collect(maps.Keys(m.out)); len(out) > 0 {
					m.deliver(out[r.IntN(len(out))], r.IntN(20) == 0)
				}
			case n < 50:
				m.wire = append(m.wire, modelWord{answer: true, number: m.delivered, out: len(m.out)})
			case n < 52:
				m.reconnect()
			case n < 70:
				m.settle(r)
			default:
				if len(m.wire) > 0 {
					m.hear()
				}
			}
			if !m.sound() {
				t.Fatalf("seed %d, step %d: the barrier is open, %v are out, %v are here, the last is %d", seed, step, m.out, m.held, m.barrier.last)
			}
			if m.barrier.open {
				opened++
			}
		}
		for message := range m.out {
			m.deliver(message, false)
		}
		m.wire = append(m.wire, modelWord{answer: true, number: m.delivered, out: len(m.out)})
		for len(m.wire) > 0 {
			m.hear()
		}
		if !m.barrier.open {
			t.Fatalf("seed %d: all is here, and the barrier is closed", seed)
		}
	}
	if opened < 3000 {
		t.Errorf("seed %d: the barrier was open after %d steps only", seed, opened)
	}
}
