package embedded

import (
	"time"
)

// watchEvery is how often the store directory is looked at.
const watchEvery = 500 * time.Millisecond

// watch looks at the store directory while the server runs. Its goroutine ends with Stop,
// which waits for it, or when the directory is lost.
type watch struct {
	stop chan struct{} // nil: there is nothing to watch
	done chan struct{} // closed when the goroutine looks no more
}

// Watch has lost called once when the store directory or its lock file was removed, moved or
// replaced, with a *storedir.LostError. It runs on a goroutine of its own, and may call Stop.
// Without a store directory Watch does nothing. New calls it once.
func (s *Server) Watch(lost func(error)) {
	dir := s.store.dir
	if dir == nil {
		return
	}
	w := &s.watch
	w.stop, w.done = make(chan struct{}), make(chan struct{})
	go func() {
		err := w.run(dir.Check)
		close(w.done) // before lost, which may wait for Stop
		if err != nil {
			lost(err)
		}
	}()
}

// run calls check until it fails, and returns its error, or nil at the end of the watch.
func (w *watch) run(check func() error) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return nil
		case <-tick.C:
			if err := check(); err != nil {
				return err
			}
		}
	}
}

// end ends the watch and waits until it looks no more. It is called once.
func (w *watch) end() {
	if w.stop != nil {
		close(w.stop)
		<-w.done
	}
}
