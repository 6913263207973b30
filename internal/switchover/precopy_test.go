package switchover

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/switchover"
)

// A large stream that cannot be copied before publishers wait makes a warning if MaxWait is probably too
// short: on the way home one in memory, else one that stores messages of its own.
func TestWarningOfALongHold(t *testing.T) {
	t.Parallel()
	large := func(c jetstream.StreamConfig) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{Config: c, State: jetstream.StreamState{Msgs: 1_000_000, Bytes: 1 << 30}}
	}
	memory := large(jetstream.StreamConfig{Name: "M", Storage: jetstream.MemoryStorage})
	file := large(jetstream.StreamConfig{Name: "F"})
	scheduled := large(jetstream.StreamConfig{Name: "T", AllowMsgSchedules: true})
	small := &jetstream.StreamInfo{Config: jetstream.StreamConfig{Name: "S"}, State: jetstream.StreamState{Msgs: 10}}
	const text = "publishers would wait for about 15s while the streams %s are copied, and MaxWait is 4s: give it more time with switchover.MaxWait, or make them smaller"
	for name, tc := range map[string]struct {
		home    bool
		maxWait time.Duration
		streams []*jetstream.StreamInfo
		warned  string
	}{
		"memory, home":           {true, 4 * time.Second, []*jetstream.StreamInfo{memory, file}, "[M]"},
		"memory, home, time":     {true, time.Minute, []*jetstream.StreamInfo{memory}, ""},
		"memory, away":           {false, 4 * time.Second, []*jetstream.StreamInfo{memory}, ""},
		"file, home":             {true, 4 * time.Second, []*jetstream.StreamInfo{file}, ""},
		"schedules and a little": {false, 4 * time.Second, []*jetstream.StreamInfo{scheduled, small}, "[S T]"},
		"little":                 {true, 4 * time.Second, []*jetstream.StreamInfo{small}, ""},
	} {
		s := &run{Config: Config{MaxWait: tc.maxWait}, report: switchover.Report{}, infos: tc.streams}
		if tc.home {
			s.Home = &Home{}
		}
		s.planLive()
		switch got := s.report.Warnings; {
		case tc.warned == "" && len(got) > 0, tc.warned != "" && (len(got) != 1 || got[0] != fmt.Sprintf(text, tc.warned)):
			t.Errorf("%s: the warnings are %q", name, got)
		}
	}
}
