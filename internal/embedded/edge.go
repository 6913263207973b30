package embedded

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/omnibus-go/bus/health"
)

const (
	// linkEvery is how often the leaf link is looked at. It is up when two looks find the same
	// connection: one that the other server is about to refuse is there for a moment, too.
	linkEvery = 250 * time.Millisecond
	// shortOutage is how long the link may be down without a report.
	shortOutage = 2 * time.Second
	// announceEvery is how often an edge tells the others which domain it has.
	announceEvery = 30 * time.Second
	// forgetTwin is for how long another edge with the domain counts that is not heard any more.
	forgetTwin = 3 * announceEvery
	// maxAnnouncement is the largest size of what another edge says, in bytes.
	maxAnnouncement = 512
)

// DomainError reports another edge with the same JetStream domain. Then the other side of the
// link cannot tell the streams of the two apart.
type DomainError struct{ Domain, Server, Host string }

func (e *DomainError) Error() string {
	return fmt.Sprintf("another edge (server %.100q on host %.100q) has the JetStream domain %q, too, so a stream that copies from that domain gets messages of either; give each edge a Domain of its own (Leaf.Domain), and make the copies of both again",
		e.Server, e.Host, e.Domain)
}

// announcement is what an edge says of itself to those with its domain.
type announcement struct {
	ID     string `json:"id"` // of the process
	Server string `json:"server"`
	Host   string `json:"host"`
}

// edge watches the leaf link of a server, and looks for another edge with its domain. Its
// goroutine ends with end, which waits for it. The zero value, of a server without a link, does
// nothing.
type edge struct {
	server  *server.Server
	log     *serverLog
	subject string // of the announcements
	domain  string
	self    announcement
	conn    *nats.Conn // nil for a node of a cluster

	changed func(health.Link)
	found   func(*DomainError)
	stop    chan struct{} // nil: there is no link
	done    chan struct{}

	mu    sync.Mutex
	state health.Link
	seen  uint64 // the connection that the latest look found; 0 for none
	told  bool   // state was reported
	ever  bool   // the link was up once
	twin  *DomainError
	heard time.Time // twin
}

// WatchLink calls changed when the leaf link is up or down, on a goroutine of its own, and found
// when another edge has the same domain, once for each. Without a link it does nothing. New calls
// it once.
func (s *Server) WatchLink(changed func(health.Link), found func(*DomainError)) error {
	if s.config.Leaf == nil {
		return nil
	}
	host, _ := os.Hostname()
	domain := s.config.Leaf.domain(s.Domain())
	e := &s.edge
	e.server, e.log, e.domain, e.subject, e.changed, e.found = s.server, s.log, domain, "$OMNIBUS_EDGE."+domain, changed, found
	e.self = announcement{ID: nuid.Next(), Server: s.server.Name(), Host: host}
	e.state = health.Link{Since: time.Now()}
	if s.config.Cluster == nil { // the nodes of a cluster have one domain
		if err := e.listen(s.Access); err != nil {
			return err
		}
	}
	e.stop, e.done = make(chan struct{}), make(chan struct{})
	go e.run()
	return nil
}

// listen has e hear the announcements of other edges with its domain.
func (e *edge) listen(access []nats.Option) (err error) {
	e.conn, err = nats.Connect("", append([]nats.Option{nats.InProcessServer(e.server), nats.NoEcho(), nats.Name("leaf link"), nats.MaxReconnects(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}, access...)...)
	if err != nil {
		return err
	}
	if _, err = e.conn.Subscribe(e.subject, e.hear); err != nil {
		e.conn.Close()
	}
	return err
}

// Link returns the state of the leaf link, nil without one, and the edge that has the same
// domain, nil if none is known.
func (s *Server) Link() (*health.Link, error) {
	e := &s.edge
	if e.stop == nil {
		return nil, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	state := e.state
	if !state.Up {
		state.Reason = e.log.linkError()
	}
	if e.twin == nil || time.Since(e.heard) > forgetTwin {
		return &state, nil
	}
	return &state, e.twin
}

// end ends the watch. It is called once.
func (e *edge) end() {
	if e.stop != nil {
		close(e.stop)
		<-e.done
	}
	if e.conn != nil {
		e.conn.Close()
	}
}

func (e *edge) run() {
	defer close(e.done)
	tick := time.NewTicker(linkEvery)
	defer tick.Stop()
	var announced time.Time
	for {
		state, changed := e.look()
		if changed {
			go e.changed(state) // it may end the server, and that waits for this goroutine
		}
		switch {
		case !state.Up:
			announced = time.Time{}
		case time.Since(announced) > announceEvery:
			announced = time.Now()
			e.announce()
		}
		select {
		case <-tick.C:
		case <-e.stop:
			return
		}
	}
}

// look looks at the link, and returns its state and whether that is to be reported.
func (e *edge) look() (state health.Link, changed bool) {
	id, name := e.connection()
	e.mu.Lock()
	defer e.mu.Unlock()
	up := id != 0 && id == e.seen
	e.seen = id
	switch {
	case up && !e.state.Up:
		e.log.forgetLinkError()
		e.told = e.ever && !e.told // nobody was told of the outage
		e.state, e.ever = health.Link{Up: true, Since: time.Now(), Server: name}, true
	case !up && e.state.Up:
		e.state, e.told = health.Link{Since: time.Now()}, false
	}
	state = e.state
	if !up {
		state.Reason = e.log.linkError()
	}
	if e.told || !up && time.Since(e.state.Since) < shortOutage {
		return state, false
	}
	e.told = true
	return state, true
}

// connection returns the ID of the link's connection, 0 for none, and the server that it leads to.
func (e *edge) connection() (id uint64, name string) {
	z, err := e.server.Leafz(nil)
	if err != nil {
		return 0, ""
	}
	for _, l := range z.Leafs {
		if l.IsSpoke {
			return l.ID, l.Name
		}
	}
	return 0, ""
}

// announce tells the other edges with this domain of this one.
func (e *edge) announce() {
	if data, err := json.Marshal(e.self); err == nil && e.conn != nil {
		_ = e.conn.Publish(e.subject, data) // it is repeated
	}
}

// hear takes the announcement of another edge with this domain. Anybody at the other side of the
// link can send one, so it only makes the edge complain.
func (e *edge) hear(m *nats.Msg) {
	var a announcement
	if len(m.Data) > maxAnnouncement || json.Unmarshal(m.Data, &a) != nil || a.ID == "" || a.ID == e.self.ID {
		return
	}
	e.mu.Lock()
	isNew := e.twin == nil || time.Since(e.heard) > forgetTwin
	e.twin, e.heard = &DomainError{Domain: e.domain, Server: a.Server, Host: a.Host}, time.Now()
	twin := e.twin
	e.mu.Unlock()
	if isNew {
		e.announce() // it may have begun after the latest one
		e.found(twin)
	}
}
