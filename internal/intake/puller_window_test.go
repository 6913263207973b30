package intake

import (
	"testing"
	"time"
)

const largestPayload = 1 << 20

// The window follows what the handlers do within a second.
func TestWindowFollowsTheHandlers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		concurrency int
		first       int
		each        time.Duration // of a message, all handlers together
		want        int
	}{
		{"fast", 1, 8, time.Microsecond, 256},
		{"a hundred a second", 1, 8, 10 * time.Millisecond, 100},
		{"one a second", 1, 8, time.Second, 2},
		{"one a minute", 1, 256, time.Minute, 2},
		{"many slow ones", 100, 8, 20 * time.Millisecond, 200},
		{"many fast ones", 100, 8, time.Microsecond, 400},
	} {
		now := time.Unix(0, 0)
		w := newWindow(c.first, c.concurrency, now)
		for range 50 {
			n, bytes := w.room(now, 0, 0, 0, largestPayload)
			if n < 1 || n > w.maxSize || bytes < 2*largestPayload {
				t.Fatalf("%s: asked for %d in %d bytes", c.name, n, bytes)
			}
			now = now.Add(time.Duration(n) * c.each)
			w.settled += n
		}
		if w.size < c.want-1 || w.size > c.want+1 {
			t.Errorf("%s: the window is %d, want %d", c.name, w.size, c.want)
		}
	}
}

func TestWindowLeavesRoom(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	for _, c := range []struct {
		name                       string
		here, asked, bytes, expect int
	}{
		{"empty", 0, 0, 0, 100},
		{"half is free", 25, 25, 1000, 50},
		{"less than half is free", 40, 11, 1000, 0},
		{"over-full", 300, 0, 1000, 0},
		{"many bytes", 10, 0, 7 << 20, 0},
		{"one message of many bytes, and more fit", 1, 0, 4 << 20, 99},
		{"none here, whatever the count of bytes", 0, 0, 0, 100},
	} {
		w := newWindow(100, 1, now)
		if n, _ := w.room(now, c.here, c.asked, c.bytes, largestPayload); n != c.expect {
			t.Errorf("%s: asked for %d, want %d", c.name, n, c.expect)
		}
	}
	w := newWindow(1, 1, now)
	if n, bytes := w.room(now, 0, 0, 0, 64<<20); n != 2 || bytes < 128<<20 {
		t.Errorf("for payloads of 64 MiB it asked for %d in %d bytes", n, bytes)
	}
}
