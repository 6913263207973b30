package switchover

import (
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/switchover"
)

// progressEvery is how often bytes are reported, at most.
const progressEvery = 50 * time.Millisecond

// phase runs a phase, reports its begin, and enters into the report how long it took.
func (s *run) phase(name switchover.Phase, do func() error) error {
	s.mu.Lock()
	s.progress.Phase = name
	s.progress.TotalStreams, s.progress.TotalMessages = len(s.report.Streams), max(s.report.Messages, s.progress.Messages)
	s.tellLocked()
	s.mu.Unlock()
	begin := time.Now()
	err := do()
	s.report.Phases = append(s.report.Phases, switchover.PhaseTime{Phase: name, Time: time.Since(begin)})
	return err
}

// sent counts bytes that were sent to the target.
func (s *run) sent(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Bytes += int64(n)
	s.progress.Bytes = s.report.Bytes
	s.rate.add(time.Since(s.began), n)
	if time.Since(s.told) >= progressEvery {
		s.tellLocked()
	}
}

// count enters into the progress that l has sent n messages.
func (s *run) count(l *live, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress.Messages += n - l.counted // wraps around if n is less
	s.progress.TotalMessages = max(s.progress.TotalMessages, s.progress.Messages)
	l.counted = n
}

// copied counts a stream that was copied.
func (s *run) copied(info *jetstream.StreamInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress.Streams++
	s.progress.Messages += info.State.Msgs
	if l := s.lives[info.Config.Name]; l != nil {
		s.progress.Messages -= l.counted
	}
	s.tellLocked()
}

// tellLocked calls the function of OnProgress, one call at a time.
func (s *run) tellLocked() {
	s.told = time.Now()
	s.progress.Elapsed = time.Since(s.began)
	s.progress.Rate = s.rate.lastSecond(s.progress.Elapsed)
	if s.Progress != nil {
		s.Progress(s.progress)
	}
}

// warn enters a warning into the report, once.
func (s *run) warn(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := fmt.Sprintf(format, args...); !slices.Contains(s.report.Warnings, w) {
		s.report.Warnings = append(s.report.Warnings, w)
	}
}

// notLive enters into the report that a stream was not copied while publishers went on.
func (s *run) notLive(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Live = slices.DeleteFunc(s.report.Live, func(l string) bool { return l == name })
}
