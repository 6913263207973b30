package ownership

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// A member that leaves, at whatever moment of its start, leaves no lease behind: the next one
// is the owner within a second. After a kill or a freeze it is the owner when the TTL is over.
// LEAVING_ROUNDS sets the number of rounds.
func TestMembersThatLeaveWhileTheyStart(t *testing.T) {
	rounds := 300
	if n, err := strconv.Atoi(os.Getenv("LEAVING_ROUNDS")); err == nil {
		rounds = n
	}
	inWorld(t, func(t *testing.T, w *world) {
		w.mayFail = true
		for round := range rounds {
			var fates []string
			silent := false // a member is gone, and told nobody
			for i := range 1 + rand.IntN(3) {
				p := w.join(fmt.Sprint("m", round, "-", i), 1)
				for range rand.IntN(1 << rand.IntN(14)) {
					runtime.Gosched()
				}
				fate := p.leaveSomehow()
				fates = append(fates, fate)
				silent = silent || fate == "killed" || fate == "frozen"
			}
			bound := time.Second
			if silent {
				bound = 3 * ttl
			}
			if took := w.timeToOwner(fmt.Sprint("next", round)); took > bound {
				t.Errorf("round %d: the next owner came after %v; before it: %v", round, took, fates)
			}
		}
	})
}

// leaveSomehow ends p in one of four ways and returns which. A frozen process is killed in
// the end.
func (p *process) leaveSomehow() string {
	switch n := rand.IntN(20); {
	case n == 0:
		p.kill()
		return "killed"
	case n == 1:
		p.suspend()
		time.Sleep(ttl / 2)
		p.resume()
		p.kill()
		return "frozen"
	case n < 7: // it must not wait
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = p.Drain(ctx)
		p.link.Close()
		return "stopped"
	}
	p.drain()
	return "drained"
}

// timeToOwner returns how long a new member takes to become the owner. The member drains
// then.
func (w *world) timeToOwner(name string) time.Duration {
	p := w.join(name, 1)
	began := time.Now()
	for !p.Owns() && time.Since(began) < 10*ttl {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(began)
	p.drain()
	return took
}
