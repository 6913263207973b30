package switchover

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/omnibus-go/bus/switchover"
)

// Undo ends the fence of a switch home that has failed while the servers were away, or that another
// process has begun. It tries that until it succeeds. The zero value is ready.
//
// States: idle → trying (Start) → idle (a try succeeds, Stop, or the bus stops). What Fenced and Hindered
// return outlives Stop: streams stay fenced until somebody calls Done, or a try succeeds.
type Undo struct {
	mu       sync.Mutex
	fenced   *switchover.FencedError // nil: no streams are known that do not have their subjects
	hindered error                   // of Undoing, until more is known
	loop     *undoLoop               // nil: idle
}

// Undoing is what Start needs.
type Undoing struct {
	Stopping <-chan struct{}             // closed when the bus stops
	Try      func(context.Context) error // a *switchover.FencedError says which streams are still fenced
	Hindered error                       // why nobody knows yet whether streams are fenced; nil if they are or may be
	// Report says that streams are fenced, and with nil that none is any more. It may take long.
	Report func(*switchover.FencedError)
}

// undoLoop is one run of the loop.
type undoLoop struct {
	Undoing
	ctx context.Context
	end context.CancelFunc
}

const (
	undoPause = time.Second     // before each try
	undoLimit = 5 * time.Second // of one try
)

// Start begins to try, in the background. It takes the place of an earlier Start. fenced is what is
// known of the streams; nil for nothing new.
func (u *Undo) Start(w Undoing, fenced *switchover.FencedError) {
	l := &undoLoop{Undoing: w}
	l.ctx, l.end = context.WithCancel(context.Background())
	u.Stop()
	u.mu.Lock()
	u.loop, u.hindered = l, w.Hindered
	u.mu.Unlock()
	begins := fenced != nil && u.update(l, fenced)
	go func() { // ends with run
		select {
		case <-l.Stopping:
			l.end()
		case <-l.ctx.Done():
		}
	}()
	go func() { // ends when a try succeeds, with Stop, or when the bus stops
		defer l.end()
		if begins {
			l.Report(fenced)
		}
		u.run(l)
	}()
}

// run tries again and again.
func (u *Undo) run(l *undoLoop) {
	for sleep(l.ctx, undoPause) == nil {
		err := l.try()
		fenced, known := errors.AsType[*switchover.FencedError](err)
		if (known || err == nil) && u.update(l, fenced) {
			l.Report(fenced)
		}
		if err == nil {
			return
		}
	}
}

func (l *undoLoop) try() error {
	ctx, cancel := context.WithTimeout(l.ctx, undoLimit)
	defer cancel()
	return l.Try(ctx)
}

// update records which streams a loop has found fenced, unless the loop was ended. It reports
// whether that has begun, or is over.
func (u *Undo) update(l *undoLoop, fenced *switchover.FencedError) (changed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.loop != l || l.ctx.Err() != nil {
		return false
	}
	changed = (u.fenced == nil) != (fenced == nil)
	u.fenced, u.hindered = fenced, nil
	return changed
}

// Stop ends the loop. It does not wait for a try that is under way: that ends soon.
func (u *Undo) Stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.loop != nil {
		u.loop.end()
		u.loop = nil
	}
}

// Done records that all streams have their subjects. It reports whether some had not.
func (u *Undo) Done() (changed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	changed = u.fenced != nil
	u.fenced, u.hindered = nil, nil
	return changed
}

// Fenced says which streams do not have their subjects; nil if all have them.
func (u *Undo) Fenced() *switchover.FencedError {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.fenced
}

// Hindered says why nobody knows yet whether streams have their subjects; nil if somebody does.
func (u *Undo) Hindered() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.hindered
}
