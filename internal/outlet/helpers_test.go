package outlet_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// sender is an outlet with its link and its counters.
type sender struct {
	*outlet.Outlet
	link     *link.Link
	counters telemetry.Bus
}

func newSender(t *testing.T, s *testserver.Server) *sender {
	t.Helper()
	o := &sender{link: s.Link(t)}
	o.Outlet = outlet.New(o.link, nil, &o.counters)
	return o
}

func message(id string) *outlet.Message {
	m := &outlet.Message{Out: wire.Out{Subject: "stored", Data: []byte("x")}, ID: id}
	if id != "" {
		m.SetHeader(wire.HeaderNatsMsgID, id)
	}
	return m
}

// stream takes the part of a stream. It calls answer for the n-th message, from 1, and
// sends the result as the acknowledgement, unless the result is empty.
func stream(t *testing.T, s *testserver.Server, answer func(n int, m *nats.Msg) string) {
	t.Helper()
	l := s.Link(t)
	n := 0
	_, err := l.Conn().Subscribe("stored", func(m *nats.Msg) {
		n++
		if text := answer(n, m); text != "" {
			if err := l.Publish(&wire.Out{Subject: m.Reply, Data: []byte(text)}); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
}
