package ownership

// A record is one message, so what is in it has to fit. What is done is in it until that
// is confirmed, which is soon. A verdict is in it until its letter is written, and that
// may take for ever: a stream may be full. So verdicts have half of a record at most, and
// the other half is left for what is done.

// around is at most how long a record is without its entries: the header has the subject
// of the claim.
const around = 1 << 10

// largest is how many bytes of entries fit into a record.
func (f *Fence) largest() int { return f.store.link.MaxPayload() - around }

// hasRoomLocked is whether e may be noted. A verdict may where there is no other, as one
// fits even if it has more than half.
func (f *Fence) hasRoomLocked(e *entry) bool {
	if e.Dead == nil || f.entries[e.ID] != nil {
		return true
	}
	alone, verdicts := true, e.bytes
	for _, other := range f.entries {
		if other.Dead != nil {
			alone, verdicts = false, verdicts+other.bytes
		}
	}
	return alone || verdicts <= f.largest()/2
}

// mostBytes is at most how long e is in a record.
func mostBytes(e Entry) int {
	const numbers = 128
	if e.Dead == nil {
		return numbers
	}
	return numbers + len(encode(e.Dead))
}
