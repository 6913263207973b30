package intake_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/testserver"
)

const nextSubject = "next.S.C"

// fakeServer plays the server of one durable consumer, to see exactly what a Durable
// asks for and how it settles. It speaks just enough of the NATS protocol; a real
// server does not let a client deliver messages that can be acknowledged.
type fakeServer struct {
	t      *testing.T
	link   *link.Link
	events chan event             // pull requests and settlements, in the order sent
	answer func(*fakeConn, event) // to a request, instead of a confirmation; set before anything is asked

	mu   sync.Mutex
	conn *fakeConn // the latest
}

// event is something that the Durable published.
type event struct {
	subject, reply, body string
	conn                 *fakeConn
}

// fakeConn is one connection of a client to an fakeServer. Reader and writer are
// apart, so that a client that writes never waits for one that reads.
type fakeConn struct {
	net.Conn
	out  chan string
	mu   sync.Mutex
	sids map[string]string // by subject
}

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	o := &fakeServer{t: t, events: make(chan event, 1<<17)}
	var wg sync.WaitGroup
	o.link = testserver.Dial(t, func() (net.Conn, error) {
		client, server := net.Pipe()
		c := &fakeConn{Conn: server, out: make(chan string, 1<<17), sids: make(map[string]string)}
		c.out <- `INFO {"server_id":"fake","headers":true,"max_payload":1048576,"proto":1}` + "\r\n"
		o.mu.Lock()
		o.conn = c
		o.mu.Unlock()
		wg.Go(func() { o.read(c) })
		wg.Go(c.write)
		return client, nil
	})
	t.Cleanup(func() {
		o.link.Close()
		wg.Wait()
	})
	return o
}

func (c *fakeConn) write() {
	for text := range c.out {
		if _, err := io.WriteString(c, text); err != nil {
			return // the client has gone
		}
	}
}

// read serves a client until it goes.
func (o *fakeServer) read(c *fakeConn) {
	defer close(c.out)
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		part := strings.Fields(line)
		switch part[0] {
		case "PING":
			c.out <- "PONG\r\n"
		case "SUB":
			c.mu.Lock()
			c.sids[part[1]] = part[len(part)-1]
			c.mu.Unlock()
		case "PUB":
			size, _ := strconv.Atoi(part[len(part)-1])
			body := make([]byte, size+2)
			if _, err := io.ReadFull(r, body); err != nil {
				return
			}
			e := event{subject: part[1], body: string(body[:size]), conn: c}
			if len(part) == 4 {
				e.reply = part[2]
			}
			o.take(c, e)
		}
	}
}

// take records an event, and confirms where that is asked for.
func (o *fakeServer) take(c *fakeConn, e event) {
	switch {
	case e.reply != "" && o.answer != nil:
		o.answer(c, e)
	case e.reply != "" && strings.HasPrefix(e.subject, "$JS.ACK."):
		c.deliver(e.reply, "", "")
	}
	o.events <- e
}

// deliver sends a message to whoever of the client is subscribed.
func (c *fakeConn) deliver(subject, reply, body string) {
	if sid := c.sid(subject); sid != "" {
		c.out <- fmt.Sprintf("MSG %s %s %s %d\r\n%s\r\n", subject, sid, reply, len(body), body)
	}
}

// sid is the client's subscription to subject, which may be one with a wildcard
// at its end, as for replies.
func (c *fakeConn) sid(subject string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sid, ok := c.sids[subject]; ok {
		return sid
	}
	return c.sids[subject[:strings.LastIndex(subject, ".")+1]+"*"]
}

// deliverHeader sends a message with a header and no payload.
func (c *fakeConn) deliverHeader(subject, reply, header string) {
	if sid := c.sid(subject); sid != "" {
		header += "\r\n\r\n"
		c.out <- fmt.Sprintf("HMSG %s %s %s %d %d\r\n%s\r\n", subject, sid, reply, len(header), len(header), header)
	}
}

func (o *fakeServer) current() *fakeConn {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.conn
}

// flush waits until what either side has sent is there.
func (o *fakeServer) flush() {
	o.t.Helper()
	if err := o.link.Flush(o.t.Context(), 10*time.Second); err != nil {
		o.t.Fatal(err)
	}
}

// request is what a Durable asks for.
type request struct {
	Batch     int           `json:"batch"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
	inbox     string
	at        time.Time
	conn      *fakeConn
}

// settlement is what a Durable says about a message.
type settlement struct {
	seq       uint64
	delivered int
	body      string // "+ACK", "-NAK 0s" or "+WPI"
}

// parse makes of an event what it is; one of the results is nil.
func (o *fakeServer) parse(e event) (*request, *settlement) {
	o.t.Helper()
	if e.subject == nextSubject {
		r := &request{inbox: e.reply, at: time.Now(), conn: e.conn}
		if err := json.Unmarshal([]byte(e.body), r); err != nil {
			o.t.Fatalf("pull request %q: %v", e.body, err)
		}
		return r, nil
	}
	part := strings.Split(e.subject, ".") // $JS.ACK.stream.consumer.delivered.sseq.cseq.time.pending
	if len(part) != 9 {
		o.t.Fatalf("published to %q", e.subject)
	}
	delivered, err := strconv.Atoi(part[4])
	seq, err2 := strconv.ParseUint(part[5], 10, 64)
	if err != nil || err2 != nil {
		o.t.Fatalf("published to %q", e.subject)
	}
	return nil, &settlement{seq, delivered, e.body}
}

// pulled waits for the next pull request and passes over settlements.
func (o *fakeServer) pulled() *request {
	o.t.Helper()
	for {
		select {
		case e := <-o.events:
			if r, _ := o.parse(e); r != nil {
				return r
			}
		case <-time.After(time.Minute):
			o.t.Fatal("nothing was asked for")
		}
	}
}

// settled waits for the next settlement that is no in-progress signal, and passes over
// pull requests.
func (o *fakeServer) settled() settlement {
	o.t.Helper()
	for {
		select {
		case e := <-o.events:
			if _, s := o.parse(e); s != nil && s.body != "+WPI" {
				return *s
			}
		case <-time.After(2 * time.Hour):
			o.t.Fatal("nothing was settled")
		}
	}
}

// all returns what has come until now.
func (o *fakeServer) all() (requests []request, settlements []settlement) {
	o.t.Helper()
	o.flush()
	for {
		select {
		case e := <-o.events:
			if r, s := o.parse(e); r != nil {
				requests = append(requests, *r)
			} else {
				settlements = append(settlements, *s)
			}
		default:
			return requests, settlements
		}
	}
}

// ackSubject is where message seq is settled after its delivered-th delivery.
func ackSubject(seq uint64, delivered int) string {
	return fmt.Sprintf("$JS.ACK.S.C.%d.%d.%d.%d.0", delivered, seq, seq, time.Now().UnixNano())
}

// send delivers message seq for the delivered-th time.
func (o *fakeServer) send(inbox string, seq uint64, delivered int) {
	o.current().deliver(inbox, ackSubject(seq, delivered), "message "+strconv.FormatUint(seq, 10))
}

// status sends a word about a pull; pending is what it still had to deliver, or
// -1 where the server does not say.
func (o *fakeServer) status(inbox, code, description string, pending int) {
	header := strings.TrimSpace("NATS/1.0 " + code + " " + description)
	if pending >= 0 {
		header += fmt.Sprintf("\r\nNats-Pending-Messages: %d\r\nNats-Pending-Bytes: 0", pending)
	}
	o.current().deliverHeader(inbox, "", header)
}
