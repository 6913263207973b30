package wire

import (
	"strconv"
	"time"
)

// KeyIncarnation is the metadata in which a stream that was moved to another server keeps its
// incarnation: there it was created later.
const KeyIncarnation = "_omnibus.incarnation"

// KeyMoved is the metadata in which a stream has the ID of the switch that took its messages
// elsewhere. It is what was left behind, and nothing is stored in it.
const KeyMoved = "_omnibus.moved"

// Incarnation tells a stream from an earlier one with its name, whose sequences it repeats.
// It is the time when the stream was created, unless its metadata keep another one.
func Incarnation(metadata map[string]string, created time.Time) string {
	if carried := metadata[KeyIncarnation]; carried != "" {
		return carried
	}
	return strconv.FormatInt(created.UnixNano(), 36)
}
