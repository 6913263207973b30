package bus_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/omnibus-go/bus"
)

// An error never shows the password of a URL, however odd the URL is, and stays short.
func FuzzURL(f *testing.F) {
	for _, s := range []string{"", ":", "@", ",", "/", "?", "#", "a@b", "://", ",b,c", ",http://x@", "@h,", "%zz", "\n"} {
		f.Add(s, s)
	}
	f.Add("", strings.Repeat(",nats://h", 2_000))
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "s3cret~x"
		u := "nats://ann:" + before + secret + after + "@127.0.0.1:1"
		// The timeout has it refused before it connects to anything.
		for call, err := range map[string]error{
			"Connect": second(bus.Connect(t.Context(), u, bus.WithTimeout(-1))),
			"New":     second(bus.New(bus.WithURL(u), bus.WithTimeout(-1))),
		} {
			if err == nil || strings.Contains(strings.ToLower(err.Error()), secret) || len(err.Error()) > 4000 {
				t.Fatalf("%s(%q): %.5000v", call, u, err)
			}
		}
	})
}

// A URL that is accepted is one that nats.go can read. An address to listen on is accepted or
// refused; both are told at once.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"", "nats://h:4222", "h", "tls://h", "ws://h/p", "h:1,h:2", "127.0.0.1:0", ":4222", "[::1]:0", "h:70000", "h:-1", "://", "nats:// ", "~"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := second(bus.New(bus.WithURL(s), bus.WithListen(s), bus.WithTimeout(-1)))
		if err == nil || len(err.Error()) > 4000 {
			t.Fatalf("%.5000v", err)
		}
		if s == "" || strings.Contains(err.Error(), "WithURL") {
			return
		}
		for part := range strings.SplitSeq(s, ",") {
			if part = strings.TrimSpace(part); !strings.Contains(part, "://") {
				part = "nats://" + part
			}
			if p, err := url.Parse(part); err != nil || p.Hostname() == "" {
				t.Fatalf("%q is accepted: %v", s, err)
			}
		}
	})
}
