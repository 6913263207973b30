package wire

import (
	"strconv"
	"time"
)

// KeyIncarnation is the metadata in which a stream that was moved to another server keeps its
// incarnation: there it was created later.
const KeyIncarnation = "_omnibus.incarnation"

// KeyMoved is the metadata in which a stream has the ID of the switch home that takes its messages
// elsewhere, or has done so. Nothing is stored in it.
const KeyMoved = "_omnibus.moved"

// KeyLeft is the metadata in which a stream with KeyMoved has the same ID once that switch is
// committed. Until then the stream may have the only copy of its messages.
const KeyLeft = "_omnibus.left"

// Moved reports whether a switch home has fenced a stream with these metadata, and whether that
// switch is committed, so that nobody needs the stream any more.
func Moved(metadata map[string]string) (moved, committed bool) {
	id := metadata[KeyMoved]
	return id != "", id != "" && metadata[KeyLeft] == id
}

// Incarnation tells a stream from an earlier one with its name, whose sequences it repeats.
// It is the time when the stream was created, unless its metadata keep another one.
func Incarnation(metadata map[string]string, created time.Time) string {
	if carried := metadata[KeyIncarnation]; carried != "" {
		return carried
	}
	return strconv.FormatInt(created.UnixNano(), 36)
}
