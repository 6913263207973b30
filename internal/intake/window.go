package intake

import "time"

const (
	// ahead is how much work a source takes in: enough that the server is asked
	// seldom, and little enough that other processes get their share, and that a
	// process which dies leaves little behind.
	ahead = time.Second

	maxWindow   = 256     // messages, unless the concurrency needs more
	windowBytes = 8 << 20 // unless the largest payload needs more
)

// window says how many messages of a source may be here or on their way: what the
// handlers did lately within ahead. Not safe for concurrent use.
type window struct {
	minSize, maxSize int
	size             int
	settled          int       // messages since then
	since            time.Time // when messages were last asked for
}

func newWindow(first, concurrency int, now time.Time) window {
	w := window{minSize: 2 * concurrency, maxSize: max(maxWindow, 4*concurrency), since: now}
	w.size = min(max(w.minSize, first), w.maxSize)
	return w
}

// hasRoom is whether room might return anything.
func (w *window) hasRoom(here, asked int) bool {
	return w.size-here-asked >= max(w.size/2, 1)
}

// room returns how many messages to ask for in how many bytes, 0 for none yet, when
// so many are here (with so many bytes) and asked for. The caller must ask for them.
func (w *window) room(now time.Time, here, asked, bytes, largest int) (messages, room int) {
	size := w.estimate(now)
	free := size - here - asked
	room = max(windowBytes, 4*largest) - bytes
	if free < max(size/2, 1) || room < 2*largest && bytes > 0 {
		return 0, 0
	}
	w.size, w.settled, w.since = size, 0, now
	return free, max(room, 2*largest)
}

// estimate is the size by what was settled since messages were last asked for. It
// goes down by steps, so that one slow message does not count for all.
func (w *window) estimate(now time.Time) int {
	if w.settled == 0 {
		return w.size
	}
	took := max(now.Sub(w.since), time.Microsecond)
	size := int(float64(w.settled) * float64(ahead) / float64(took))
	return min(max(size, w.size/2, w.minSize), w.maxSize)
}
