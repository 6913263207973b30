package plural_test

import (
	"testing"

	"github.com/omnibus-go/bus/internal/plural"
)

func TestOf(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0 messages wait", 1: "1 message waits", 2: "2 messages wait"} {
		if got := plural.Of(n, "message waits", "messages wait"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
