package main

import (
	"io"
	"net"
	"sync"
)

// wire passes connections on to the hub. It can be cut.
type wire struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

// newWire returns a wire to the address target.
func newWire(target string) (*wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wire{listener: l, target: target}
	w.running.Go(w.serve)
	return w, nil
}

// freePort returns a port on which nobody listens.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// address is where the edges connect to.
func (w *wire) address() string { return w.listener.Addr().String() }

// serve passes connections on until close.
func (w *wire) serve() {
	for {
		from, err := w.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", w.target)
		if err != nil {
			_ = from.Close()
			continue
		}
		w.join(from, to)
	}
}

// join connects the two, unless the wire is cut.
func (w *wire) join(from, to net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isCut {
		_ = from.Close()
		_ = to.Close()
		return
	}
	w.conns = append(w.conns, from, to)
	for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
		w.running.Go(func() {
			_, _ = io.Copy(pair[0], pair[1]) // it ends when the wire is cut
			_ = pair[0].Close()
		})
	}
}

// cut ends all connections and lets no new one through.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = true
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

// restore lets connections through again.
func (w *wire) restore() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = false
}

// close ends everything.
func (w *wire) close() {
	_ = w.listener.Close()
	w.cut()
	w.running.Wait()
}
