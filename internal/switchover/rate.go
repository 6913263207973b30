package switchover

import "time"

// rateSlot is how finely rate tells times apart.
const rateSlot = progressEvery

// rate counts the bytes of the last second. Times are since the switch began.
type rate struct {
	slots [time.Second / rateSlot]struct {
		number int64 // how many slots came before it
		bytes  int64
	}
}

// add counts n bytes.
func (r *rate) add(at time.Duration, n int) {
	number := int64(at / rateSlot)
	slot := &r.slots[number%int64(len(r.slots))]
	if slot.number != number {
		slot.number, slot.bytes = number, 0
	}
	slot.bytes += int64(n)
}

// lastSecond returns how many bytes were counted in the last second. It may leave out the first
// rateSlot of that.
func (r *rate) lastSecond(at time.Duration) (bytes int64) {
	oldest := int64(at/rateSlot) - int64(len(r.slots))
	for _, slot := range r.slots {
		if slot.number > oldest {
			bytes += slot.bytes
		}
	}
	return bytes
}
