package streamdef

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/testserver"
)

// open returns a Declarer on a server that keeps streams in memory.
func open(t *testing.T) (*Declarer, *core.Core) {
	t.Helper()
	l := testserver.New(t, testserver.WithJetStream).Link(t)
	js, err := jetstream.New(l.Conn())
	if err != nil {
		t.Fatal(err)
	}
	c := &core.Core{Link: l, JetStream: js, Logger: hclog.NewNullLogger(), Timeout: 10 * time.Second}
	c.InMemory.Store(true)
	return New(c), c
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestDeclareCreatesChangesAndRefuses(t *testing.T) {
	t.Parallel()
	d, c := open(t)
	ctx := timeout(t)
	limit := func(n int64) func(*config) { return func(js *config) { js.MaxMsgs = n } }
	p, err := d.Plan(ctx, wanted(0, false, limit(10)))
	if err != nil || !p.Create {
		t.Errorf("got %+v, %v", p, err)
	}
	for _, n := range []int64{10, 10, 20} {
		info, err := d.Declare(ctx, wanted(0, false, limit(n)))
		if err != nil || info.Config.MaxMsgs != n || info.Config.Storage != jetstream.MemoryStorage {
			t.Fatalf("got %+v, %v", info, err)
		}
	}
	for range 5 {
		if _, err := c.JetStream.Publish(ctx, "S", nil); err != nil {
			t.Fatal(err)
		}
	}
	_, err = d.Declare(ctx, wanted(0, false, limit(2)))
	conflict, ok := errors.AsType[*ConflictError](err)
	if !ok || len(conflict.Fields) != 1 || conflict.WouldRemove != (Removal{Messages: 3}) {
		t.Errorf("got %v", err)
	}
	info, err := d.Declare(ctx, wanted(0, true, limit(2)))
	if err != nil || info.State.Msgs != 2 {
		t.Errorf("got %+v, %v", info, err)
	}
}

func TestDeclareFails(t *testing.T) {
	t.Parallel()
	d, _ := open(t)
	_, err := d.Declare(timeout(t), wanted(0, false, func(js *config) { js.Storage = jetstream.FileStorage }))
	if !errors.Is(err, ErrNoDisk) {
		t.Errorf("got %v", err)
	}
	_, err = d.Declare(timeout(t), wanted(0, false, func(js *config) { js.Subjects = []string{"a..b"} }))
	if e, ok := errors.AsType[*jserr.Error](err); !ok || e.Stream != "S" || e.Op != "create" {
		t.Errorf("got %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = d.Declare(ended, wanted(0, false, func(*config) {})); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// overwritten is a server on which another program overwrites the first update at once.
type overwritten struct {
	jetstream.JetStream
	before  bool // that is before the server answers
	updates int
}

func (o *overwritten) UpdateStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	st, err := o.JetStream.UpdateStream(ctx, c)
	if o.updates++; o.updates == 1 && err == nil {
		c.MaxMsgs = 7
		other, err := o.JetStream.UpdateStream(ctx, c)
		if o.before {
			return other, err // the server answers with the configuration that it has by then
		}
	}
	return st, err
}

func TestDeclareLooksAgain(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"overwritten after the answer": false, "overwritten before the answer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, c := open(t)
			ctx := timeout(t)
			if _, err := d.Declare(ctx, wanted(0, false, func(js *config) { js.MaxMsgs = 5 })); err != nil {
				t.Fatal(err)
			}
			server := &overwritten{JetStream: c.JetStream, before: before}
			c.JetStream = server
			info, err := d.Declare(ctx, wanted(0, false, func(js *config) { js.MaxMsgs = 10 }))
			if err != nil || info.Config.MaxMsgs != 10 || server.updates != 2 {
				t.Errorf("got %+v after %d updates, %v", info, server.updates, err)
			}
		})
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	d, c := open(t)
	ctx := timeout(t)
	if _, err := Purge(ctx, c, "S", Filter{}); !jserr.IsAbsent(err) {
		t.Errorf("got %v", err)
	}
	if _, err := d.Declare(ctx, wanted(0, false, func(js *config) { js.Subjects = []string{"s.*"} })); err != nil {
		t.Fatal(err)
	}
	for _, subj := range []string{"s.a", "s.b", "s.a", "s.b", "s.a"} {
		if _, err := c.JetStream.Publish(ctx, subj, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		f    Filter
		want int
	}{{Filter{Subject: "s.a", Keep: 2}, 1}, {Filter{Before: 3}, 1}, {Filter{Before: 1000}, 3}} {
		if n, err := Purge(ctx, c, "S", tc.f); err != nil || n != tc.want {
			t.Errorf("%+v: got %d, %v; want %d", tc.f, n, err, tc.want)
		}
	}
	ack, err := c.JetStream.Publish(ctx, "s.a", nil)
	if err != nil || ack.Sequence != 6 {
		t.Errorf("the next sequence is %+v, %v", ack, err)
	}
}
