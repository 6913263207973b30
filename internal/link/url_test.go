package link_test

import (
	"strings"
	"testing"

	"github.com/omnibus-go/bus/internal/link"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		"nats://host:4222": "nats://host:4222",
		"host:4222":        "host:4222",
		"nats://[::1]:4222,tls://b.example:4222/":       "nats://[::1]:4222,tls://b.example:4222/",
		"wss://host:443/a/path":                         "wss://host:443/a/path",
		"nats://ann:S3CRET@host:4222":                   "nats://xxxxx@host:4222",
		"nats://ann:p@S3CRET@host":                      "nats://xxxxx@host",
		"nats://ann:S3CRET":                             "nats://xxxxx",
		"nats://ann:p@S3CRET/127.0.0.1:1":               "nats://xxxxx",
		"nats://ann:S3CRET,b,c@127.0.0.1:1":             "nats://xxxxx@127.0.0.1:1",
		"nats://a:1,nats://ann:S3CRET,b@h:1,nats://c:2": "nats://a:1,nats://xxxxx@h:1,nats://c:2",
		"nats://S3CRET@":                                "nats://xxxxx@",
		"nats://ann:p#S3CRET":                           "nats://xxxxx",
		"nats://host:4222?token=S3CRET":                 "nats://xxxxx",
		"ws://ann:p@S3CRET/host":                        "ws://xxxxx",
		"http://host:4222":                              "http://host:4222",
		"host:4222/x":                                   "host:4222/x",
		"host:4222/x,ann:S3CRET@host":                   "xxxxx@host",
	} {
		if got := link.Redact(list); got != want {
			t.Errorf("Redact(%q) = %q, want %q", list, got, want)
		}
	}
}

// A long list takes no longer for each of its URLs than a short one. With a time that grows by
// the square this one took half a minute.
func TestRedactLongList(t *testing.T) {
	t.Parallel()
	if got := link.Redact(strings.Repeat(",h", 100_000) + "@x"); got != "xxxxx@x" {
		t.Errorf("got %.100q", got)
	}
}

// A secret that separators surround is not shown.
func FuzzRedact(f *testing.F) {
	for _, s := range []string{"", ":", "@", ",", "/", "?", "#", "a@b", "://", ",b,c"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "~S3CRET~"
		u := "nats://ann:" + before + secret + after + "@127.0.0.1:1"
		if got := link.Redact(u); strings.Contains(got, secret) {
			t.Errorf("Redact(%q) = %q", u, got)
		}
	})
}
