package embedded

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// watchEvery is how often the store directory is looked at. What needs two looks is noticed
// within a second too.
const watchEvery = 400 * time.Millisecond

// watch looks at the store directory while the server runs. Its goroutine ends with Stop,
// which waits for it, or when the directory is lost.
type watch struct {
	stop chan struct{} // nil: there is nothing to watch
	done chan struct{} // closed when the goroutine looks no more

	present atomic.Int64 // when CheckStore found the directory present, in nanoseconds since start
	start   time.Time
}

// Watch has lost called once when the store directory or a part of it was removed, moved,
// replaced, or became read-only, with a *storedir.LostError. From then on the server refuses
// messages for streams, whoever sends them. lost runs on a goroutine of its own, and may call
// Stop. Without a store directory Watch does nothing. New calls it once.
func (s *Server) Watch(lost func(error)) {
	dir := s.store.dir
	if dir == nil {
		return
	}
	w := &s.watch
	w.stop, w.done = make(chan struct{}), make(chan struct{})
	folders := dir.Folders(s.server.GlobalAccount().Name, s.streams)
	check := func() error {
		if err := dir.Check(); err != nil {
			return err
		}
		return folders.Check()
	}
	first := check() // now, so that it sees the streams that are here from the start
	go func() {
		err := first
		if err == nil {
			err = w.run(check)
		}
		if err != nil {
			s.refuseMessages()
		}
		close(w.done) // before lost, which may wait for Stop
		if err != nil {
			lost(err)
		}
	}()
}

// CheckStore returns a *storedir.LostError if the store directory was removed, moved or
// replaced. It looks, unless it did so less than maxAge ago. A bus calls it before it says that
// a message is stored, since Watch notices a loss later. Safe for concurrent use.
func (s *Server) CheckStore(maxAge time.Duration) error {
	dir := s.store.dir
	if dir == nil {
		return nil
	}
	w := &s.watch
	now := int64(time.Since(w.start))
	if last := w.present.Load(); last != 0 && now-last < int64(maxAge) {
		return nil
	}
	err := dir.CheckPresent()
	if err == nil {
		w.present.Store(now)
	}
	return err
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

// streams returns the creation times of all streams.
func (s *Server) streams() (map[string]time.Time, error) {
	detail, err := s.server.JszAccount(&server.JSzOptions{Account: s.server.GlobalAccount().Name, Streams: true})
	if err != nil {
		return nil, err
	}
	created := make(map[string]time.Time, len(detail.Streams))
	for i := range detail.Streams {
		created[detail.Streams[i].Name] = detail.Streams[i].Created
	}
	return created, nil
}

// refuseMessages has the server refuse each message for a stream.
func (s *Server) refuseMessages() {
	if err := s.room.close(s.server); err != nil {
		s.config.Logger.Error(fmt.Sprintf("the server goes on to acknowledge messages of other clients, which are not stored: %v; stop this process", err))
	}
}
