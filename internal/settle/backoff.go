package settle

import (
	"math/rand/v2"
	"time"
)

// backoff doubles from MinBackoff up to MaxBackoff, less up to a quarter at
// random so that messages that failed together do not come back together.
func (p Policy) backoff(attempt int) time.Duration {
	d := p.MinBackoff
	for i := 1; i < attempt && d < p.MaxBackoff; i++ {
		d += min(d, p.MaxBackoff-d) // twice as much, where that does not overflow
	}
	d = min(d, p.MaxBackoff)
	if quarter := int64(d) / 4; quarter > 0 {
		d -= time.Duration(rand.Int64N(quarter))
	}
	return d
}
