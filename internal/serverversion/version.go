package serverversion

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Version is the version of a nats-server. Pre-releases count as the release they precede,
// since they have its features.
type Version struct{ Major, Minor, Patch int }

// String returns the version as the server writes it; without a patch number if that is 0.
func (v Version) String() string {
	if v.Patch == 0 {
		return fmt.Sprintf("%d.%d", v.Major, v.Minor)
	}
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
}

// AtLeast reports whether v is w or newer.
func (v Version) AtLeast(w Version) bool {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch)) >= 0
}

// Parse reads a version such as "2.11.17", "v2.14.0-RC.1" or "2.15.0-dev". ok is false for
// any other text.
func Parse(text string) (v Version, ok bool) {
	text, _, _ = strings.Cut(strings.TrimPrefix(text, "v"), "+")
	text, _, _ = strings.Cut(text, "-")
	parts := strings.Split(text, ".")
	if len(parts) < 2 || len(parts) > 3 {
		return Version{}, false
	}
	for i, number := range []*int{&v.Major, &v.Minor, &v.Patch}[:len(parts)] {
		n, err := strconv.ParseUint(parts[i], 10, 16)
		if err != nil {
			return Version{}, false
		}
		*number = int(n)
	}
	return v, true
}

// Server is what is known of a connected server.
type Server struct {
	Version Version
	Text    string // the version as the server named it
}

// Of returns the server that named its version so. One whose version cannot be read counts as
// the oldest supported one: what that does not have is refused, and nothing is lost silently.
func Of(text string) Server {
	if v, ok := Parse(text); ok {
		return Server{Version: v, Text: text}
	}
	return Server{Version: Oldest, Text: cmp.Or(text, "of an unknown version")}
}
