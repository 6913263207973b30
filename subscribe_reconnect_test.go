package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// Subscriptions live on when the connection is lost and comes back, with their
// queue groups and their drain.
func TestSubscriptionsSurviveAReconnect(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := bustest.New(t, record)
	h, got := collect[int](100)
	_, err := bus.Subscribe(b, "a", h)
	must(t, err)
	member, shared := collect[int](100)
	_, err = bus.Subscribe(b, "a", member, bus.Queue("g"))
	must(t, err)
	blocked, began, release := held[int](100)
	draining, err := bus.Subscribe(b, "a", blocked)
	must(t, err)
	publishRange(t, b, "a", 0, 2)
	receive(t, began)
	result := make(chan error, 1)
	go func() { result <- draining.Drain(t.Context()) }()
	for i := 2; i < 5; i++ {
		must(t, b.Conn().ForceReconnect())
		nextEvent(t, events, event.Disconnected)
		e := nextEvent(t, events, event.Reconnected)
		if e.Time.IsZero() {
			t.Error("the event has no time")
		}
		publishRange(t, b, "a", i, i+1)
	}
	close(release)
	must(t, receive(t, result))
	for want := range 5 {
		if v := receive(t, got); v != want {
			t.Errorf("got %d, want %d", v, want)
		}
		if v := receive(t, shared); v != want {
			t.Errorf("the member got %d, want %d", v, want)
		}
	}
	s := b.Stats()
	if s.Disconnects != 3 || s.Reconnects != 3 || s.Dropped != 0 {
		t.Errorf("disconnects %d, reconnects %d, dropped %d; want 3, 3, 0", s.Disconnects, s.Reconnects, s.Dropped)
	}
}

// What had arrived is handled although the connection is lost in the middle of
// the drain, and although it does not come back.
func TestDrainWhileDisconnected(t *testing.T) {
	t.Parallel()
	t.Run("lost before", func(t *testing.T) {
		t.Parallel()
		server := bustest.New(t, anyPort())
		record, events := recordEvents()
		b := connectTo(t, server, record)
		h, began, release := held[int](100)
		var handled atomic.Int64
		sub, err := bus.Subscribe(b, "a", counted(h, &handled))
		must(t, err)
		publishRange(t, server, "a", 0, 20)
		must(t, b.Flush(t.Context()))
		receive(t, began)
		must(t, server.Close())
		nextEvent(t, events, event.Disconnected)
		close(release)
		start := time.Now()
		must(t, sub.Drain(t.Context()))
		if n := handled.Load(); n != 20 {
			t.Errorf("%d handled, want 20", n)
		}
		_, err = b.Conn().QueueSubscribe("x", "", nil)
		if err == nil {
			t.Error("subscribed without a callback")
		}
		must(t, b.Close())
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("lost meanwhile", func(t *testing.T) {
		t.Parallel()
		server := newFakeServer(t)
		b, err := bus.Connect(t.Context(), server.url(), bus.WithLogger(silent()))
		must(t, err)
		t.Cleanup(func() { _ = b.Close() })
		h, began, release := held[int](100)
		var handled atomic.Int64
		server.answerPings()
		sub, err := bus.Subscribe(b, "a", counted(h, &handled))
		must(t, err)
		server.ignorePings()
		sid := subscriptionID(server.expect("SUB a "))
		for i := range 3 {
			server.send(fmt.Sprintf("MSG a %s 1\r\n%d\r\n", sid, i))
		}
		receive(t, began)
		eventually(t, "all have arrived", func() bool { return b.Stats().Subscriptions[0].Pending == 2 })
		result := make(chan error, 1)
		go func() { result <- sub.Drain(t.Context()) }()
		server.expect("UNSUB " + sid)
		server.expect("PING")
		server.cut()
		close(release)
		must(t, receive(t, result))
		if n := handled.Load(); n != 3 {
			t.Errorf("%d handled, want 3", n)
		}
		server.answerPings()
	})
}

// subscriptionID is the last word of a SUB line.
func subscriptionID(line string) string { return line[strings.LastIndexByte(line, ' ')+1:] }

// Close ends a bus with a subscription at once although its server has gone.
func TestCloseWhileDisconnected(t *testing.T) {
	t.Parallel()
	server := bustest.New(t, anyPort())
	record, events := recordEvents()
	b := connectTo(t, server, record)
	_, err := bus.Subscribe(b, "a", ignore[int])
	must(t, err)
	_, err = bus.Respond(b, "b", func(context.Context, *bus.Msg[int]) (int, error) { return 0, nil })
	must(t, err)
	must(t, server.Close())
	nextEvent(t, events, event.Disconnected)
	start := time.Now()
	must(t, b.Close())
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A flush that the loss of the connection ends says so; the bus is not closed.
func TestFlushWhileTheConnectionIsLost(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	b, err := bus.Connect(t.Context(), server.url(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	result := make(chan error, 1)
	go func() { result <- b.Flush(t.Context()) }()
	server.expect("PING")
	server.cut()
	err = receive(t, result)
	isError(t, err, bus.ErrDisconnected)
	if errors.Is(err, bus.ErrClosed) {
		t.Errorf("it says that the bus is closed: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	server.ignorePings()
	isError(t, b.Flush(ctx), bus.ErrTimeout)
	server.answerPings()
}
