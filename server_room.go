package bus

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// errLimitReached is what the embedded server says of a message that it refuses.
var errLimitReached = errors.New("the server refused a message, because a limit of memory or disk is reached")

// storageUse is how much of a limit of memory or disk is in use.
type storageUse struct {
	option      string // that sets the limit
	used, limit int64  // bytes
}

// String returns the use as text.
func (u storageUse) String() string {
	return fmt.Sprintf("streams use %d of %d bytes (%s)", u.used, u.limit, u.option)
}

// fullest returns the limit of the embedded server of which the largest share is in use.
func (b *Bus) fullest() (use storageUse, ok bool) {
	local := b.local.Load()
	if local == nil {
		return use, false
	}
	all := local.usage()
	if len(all) == 0 {
		return use, false
	}
	return slices.MaxFunc(all, func(a, b storageUse) int {
		return cmp.Compare(ratio(a.used, a.limit), ratio(b.used, b.limit))
	}), true
}

// storeFullError adds to err, with which the server refuses messages, how much is in use and
// what to do.
func (b *Bus) storeFullError(err error) error {
	if use, ok := b.fullest(); ok {
		return fmt.Errorf("bus: no room for messages: %s: %s; %s", inner(err), use, storeRemedy)
	}
	return fmt.Errorf("bus: no room for messages: %s; %s", inner(err), storeRemedy)
}

// ratio is used/limit, or 0 when there is no limit.
func ratio[N int | int64](used, limit N) float64 {
	if limit <= 0 {
		return 0
	}
	return float64(used) / float64(limit)
}
