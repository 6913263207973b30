package link

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// serverPrefix is how the subjects begin to which the server itself replies.
const serverPrefix = "$JS."

// requests are the requests of a link that wait for their replies. One subscription receives
// all replies. nats.go has the same, but it ends all requests when the connection is cut. Here
// they wait on, because their responders may be on this very link: those reply when the
// connection is back.
//
// Each request waits on the goroutine of its caller. The subscription has one of nats.go, from
// the first request until the connection is closed. mu guards all fields.
type requests struct {
	mu     sync.Mutex
	prefix string // of the reply subjects; empty before the first request
	last   uint64 // the number of the latest request
	open   map[uint64]openRequest
	ended  bool // the connection is closed
}

// openRequest is a request without a reply.
type openRequest struct {
	reply  chan *nats.Msg // gets the reply, or is closed when none comes
	server bool           // the server replies itself, so the reply is lost with the connection
}

// Request sends o and waits for one reply until ctx ends. A lost connection does not end it,
// nor does Cut, since responders reply when the connection is back. But Cut ends requests to
// the server itself, and a forced reconnect ends all, with nats.ErrDisconnected. If the server
// refuses o, or the replies, the error is a *RefusedError, at once. Without responders it is
// nats.ErrNoResponders, and when the link is closed nats.ErrConnectionClosed.
func (l *Link) Request(ctx context.Context, o *wire.Out) (*nats.Msg, error) {
	return WhileAllowed(ctx, l, o.Subject, func(ctx context.Context) (*nats.Msg, error) { return l.request(ctx, o) })
}

func (l *Link) request(ctx context.Context, o *wire.Out) (*nats.Msg, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	number, inbox, reply, err := l.requests.begin(l.nc, strings.HasPrefix(o.Subject, serverPrefix))
	if err != nil {
		return nil, err
	}
	if err := l.Publish(&wire.Out{Subject: o.Subject, Reply: inbox, Header: o.Header, Data: o.Data}); err != nil {
		l.requests.remove(number)
		return nil, err
	}
	select {
	case m, ok := <-reply:
		return l.outcome(m, ok)
	case <-ctx.Done():
	}
	if l.requests.remove(number) {
		return nil, ctx.Err()
	}
	m, ok := <-reply // it came at the same moment
	return l.outcome(m, ok)
}

// outcome returns a reply, or why there is none.
func (l *Link) outcome(m *nats.Msg, ok bool) (*nats.Msg, error) {
	switch {
	case ok && len(m.Data) == 0 && m.Header.Get("Status") == "503":
		return nil, nats.ErrNoResponders
	case ok:
		return m, nil
	case l.nc.IsClosed():
		return nil, nats.ErrConnectionClosed
	}
	return nil, nats.ErrDisconnected
}

// begin registers a request. It returns its number, its reply subject, and where its reply
// comes.
func (r *requests) begin(nc *nats.Conn, server bool) (number uint64, inbox string, reply chan *nats.Msg, err error) {
	reply = make(chan *nats.Msg, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return 0, "", nil, nats.ErrConnectionClosed
	}
	if err := r.subscribeLocked(nc); err != nil {
		return 0, "", nil, err
	}
	r.last++
	r.open[r.last] = openRequest{reply, server}
	return r.last, r.inboxLocked(r.last), reply, nil
}

// inboxLocked returns the reply subject of a request, in one allocation unless the prefix is
// long.
func (r *requests) inboxLocked(number uint64) string {
	var room [64]byte
	return string(strconv.AppendUint(append(room[:0], r.prefix...), number, 36))
}

// subscribeLocked subscribes to the replies, at the first request.
func (r *requests) subscribeLocked(nc *nats.Conn) error {
	if r.prefix != "" {
		return nil
	}
	prefix := nc.NewInbox() + "."
	r.prefix, r.open = prefix, make(map[uint64]openRequest)
	if _, err := nc.Subscribe(prefix+"*", r.onReply); err != nil {
		r.prefix = ""
		return err
	}
	return nil
}

// onReply gives a reply to its request. Only the first reply of a request counts. nats.go
// calls it.
func (r *requests) onReply(m *nats.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, ours := strings.CutPrefix(m.Subject, r.prefix)
	number, err := strconv.ParseUint(text, 36, 64)
	if !ours || err != nil {
		return // not a reply to a request
	}
	if q, ok := r.open[number]; ok {
		delete(r.open, number)
		q.reply <- m // it has room for one
	}
}

// remove gives up a request. It returns false if the request has its reply or was ended.
func (r *requests) remove(number uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, open := r.open[number]
	delete(r.open, number)
	return open
}

// lose ends the requests whose replies are lost with the connection: those to the server
// itself, or all.
func (r *requests) lose(all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(func(q openRequest) bool { return all || q.server })
}

// end ends all requests. It is called when the connection is closed.
func (r *requests) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.endLocked(func(openRequest) bool { return true })
}

// endLocked ends some requests without a reply.
func (r *requests) endLocked(which func(openRequest) bool) {
	for number, q := range r.open {
		if which(q) {
			delete(r.open, number)
			close(q.reply)
		}
	}
}
