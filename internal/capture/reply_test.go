package capture_test

import (
	"testing"

	"github.com/omnibus-go/bus/internal/capture"
	"github.com/omnibus-go/bus/internal/core"
)

func TestCheckReply(t *testing.T) {
	t.Parallel()
	x := capture.New(&core.Core{})
	x.Set(info("A", true, "a.*"))
	for reply, good := range map[string]bool{
		"": true, "_INBOX.x.y": true, "a": true, "reply.here": true,
		"a.b": false, "$JS.API.STREAM.DELETE.A": false, "$SYS.REQ.SERVER.PING": false, "$": false,
	} {
		if err := x.CheckReply(reply); (err == nil) != good {
			t.Errorf("%q: %v", reply, err)
		}
	}
}
