package dispatch

import "github.com/omnibus-go/bus/internal/wire"

// ring is a first-in first-out buffer that grows as needed. The zero value is
// empty. Not safe for concurrent use.
type ring struct {
	buf   []wire.Delivery // its length is a power of two
	head  int
	n     int
	bytes int
}

const (
	minRing = 8
	// maxKeptRing is the largest buffer an emptied ring keeps: a burst should not
	// hold its memory for ever.
	maxKeptRing = 1024
)

func (r *ring) push(d wire.Delivery) {
	if r.n == len(r.buf) {
		r.grow()
	}
	r.buf[(r.head+r.n)&(len(r.buf)-1)] = d
	r.n++
	r.bytes += d.Size()
}

// pop takes the oldest element; the ring must not be empty.
func (r *ring) pop() wire.Delivery {
	d := r.buf[r.head]
	r.buf[r.head] = wire.Delivery{} // let go of the payload
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.n--
	r.bytes -= d.Size()
	if r.n == 0 && len(r.buf) > maxKeptRing {
		*r = ring{}
	}
	return d
}

func (r *ring) grow() {
	bigger := make([]wire.Delivery, max(minRing, 2*len(r.buf)))
	for i := range r.n {
		bigger[i] = r.buf[(r.head+i)&(len(r.buf)-1)]
	}
	r.buf, r.head = bigger, 0
}
