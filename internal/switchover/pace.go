package switchover

import (
	"context"
	"time"
)

// minChunk is the smallest chunk, however slowly it is copied. A server accepts no smaller one.
const minChunk = 1 << 10

// chunkSize is the size of chunks: less than usual if the rate is low, so that each open
// restore gets one often enough.
func (s *run) chunkSize() int {
	if s.CopyRate == 0 {
		return chunkSize
	}
	return min(chunkSize, max(minChunk, s.CopyRate/16))
}

// pace waits until n bytes may be copied. From the hold on they always may.
func (s *run) pace(ctx context.Context, n int) error {
	if s.CopyRate == 0 {
		return nil
	}
	s.mu.Lock()
	if now := time.Now(); s.paced.Before(now) {
		s.paced = now
	}
	wait := time.Until(s.paced)
	s.paced = s.paced.Add(time.Duration(n) * time.Second / time.Duration(s.CopyRate))
	s.mu.Unlock()
	select {
	case <-s.unpaced:
		return nil
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
