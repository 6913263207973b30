package testserver_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/leakcheck"
	"github.com/omnibus-go/bus/internal/testserver"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// A restarted server has the same port and the same streams, and is another server.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, testserver.WithPort, testserver.WithJetStream)
	url, id := s.ClientURL(), s.NATS().ID()
	js, err := jetstream.New(s.Conn(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	if s.ClientURL() != url || s.NATS().ID() == id {
		t.Errorf("restarted at %s with the id %s; before it was at %s with the id %s", s.ClientURL(), s.NATS().ID(), url, id)
	}
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Stream(t.Context(), "S"); err != nil {
		t.Errorf("the stream: %v", err)
	}
}

// A server without a port runs in a bubble, where a day passes at once.
func TestBubble(t *testing.T) {
	t.Parallel()
	testserver.Bubble(t, func(t *testing.T) {
		s := testserver.New(t, testserver.WithJetStream)
		js, err := jetstream.New(s.Link(t).Conn())
		if err != nil {
			t.Fatal(err)
		}
		st, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, MaxAge: 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), "s", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Hour)
		synctest.Wait()
		if info, err := st.Info(t.Context()); err != nil || info.State.Msgs != 0 {
			t.Errorf("%+v, %v after the maximum age", info, err)
		}
	})
}

func TestStopTwice(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	nc := s.Conn(t)
	s.Stop()
	s.Stop()
	if c, err := s.InProcessConn(); err == nil {
		_ = c.Close()
		t.Error("a stopped server was dialled")
	}
	nc.Close()
}
