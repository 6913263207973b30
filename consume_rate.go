package bus

import (
	"fmt"
	"time"
)

// RateLimit lets n handler calls begin in each per, evenly: one each per/n. It holds
// for each member by itself. Messages that wait for their turn are kept alive; when
// the consumer ends they are given back. In a batch each message counts.
func RateLimit(n int, per time.Duration) ConsumeOption {
	return consumeOption(func(o *handleOptions) {
		if n < 1 || per <= 0 || per/time.Duration(n) == 0 {
			o.fail("RateLimit", fmt.Sprintf("%d, %v", n, per), "both must be more than zero, and at most one call a nanosecond")
			return
		}
		o.every = per / time.Duration(n)
	})
}
