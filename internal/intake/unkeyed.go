package intake

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// unkeyed is the order of messages without keys: each runs as soon as a worker is free.
// It has no state.
type unkeyed struct{ d *Durable }

func (u *unkeyed) receiver(p *puller) nats.MsgHandler { return p.receive }

func (u *unkeyed) admit(*puller, *wire.Delivery, string) bool { return false }

func (u *unkeyed) deliveredLocked(*puller, *wire.Delivery, time.Time, bool) {}

func (u *unkeyed) keptLocked(*UnreadableError) {}

func (u *unkeyed) arrive(del wire.Delivery) { u.d.push(del) }

func (u *unkeyed) resume(del wire.Delivery) { u.d.push(del) }

func (u *unkeyed) mayRun(wire.Delivery) (wait bool, barred error) { return false, nil }

func (u *unkeyed) lines(all []wire.Delivery) [][]wire.Delivery {
	each := make([][]wire.Delivery, len(all))
	for i := range all {
		each[i] = all[i : i+1]
	}
	return each
}

func (u *unkeyed) putBack([]wire.Delivery) {}

func (u *unkeyed) failed(wire.Delivery, error) {}

func (u *unkeyed) finished(wire.Delivery) {}

func (u *unkeyed) mayDefer(*wire.Stored) bool { return true }

func (u *unkeyed) settledLocked(position, hold, []byte) {}

func (u *unkeyed) waitingLocked(*puller) int { return 0 }

func (u *unkeyed) creditLocked(_ *puller, messages, bytes int) (int, int) { return messages, bytes }

func (u *unkeyed) wantsMoreLocked(*puller) bool { return false }

func (u *unkeyed) startLocked(*puller, time.Time) {}

func (u *unkeyed) reconnectedLocked(*puller, time.Time) {}

func (u *unkeyed) answeredLocked(*puller, time.Time, *consumerInfo) []wire.Delivery { return nil }

func (u *unkeyed) maintain(time.Time) {}

func (u *unkeyed) nextLocked() time.Time { return time.Time{} }

func (u *unkeyed) backlog() (msgs, bytes int) { return 0, 0 }

func (u *unkeyed) stalledLocked() error { return nil }

func (u *unkeyed) stop() []wire.Delivery { return nil }

func (u *unkeyed) wait(context.Context) {}

func (u *unkeyed) storedLocked() int { return 0 }
