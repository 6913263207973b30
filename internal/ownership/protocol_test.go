package ownership

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// A message comes out at a member as it went in at the owner.
func TestAssignmentsTravel(t *testing.T) {
	t.Parallel()
	d := wire.Delivery{In: wire.In{Subject: "s.a", Header: wire.Header{"Nats-Msg-Id": {"x"}, "Tenant": {"y"}}, Data: []byte("body")},
		Stored: &wire.Stored{Stream: "S", Sequence: 7, Time: time.Unix(1, 2).UTC(), Deliveries: 3, Attempt: 4}}
	want := assignmentID{Epoch: 1 << 40, Number: 5, Key: keyHash("k")}
	out := encodeAssignment(&d, "to", "_INBOX.x", want)
	got, task, err := decodeAssignment(&nats.Msg{Subject: out.Subject, Reply: out.Reply, Header: nats.Header(out.Header), Data: out.Data})
	if err != nil || task != want || *got.Stored != *d.Stored {
		t.Errorf("got %+v as %+v, %v", got.Stored, task, err)
	}
	if got.Subject != d.Subject || !bytes.Equal(got.Data, d.Data) || !maps.EqualFunc(got.Header, d.Header, slices.Equal) {
		t.Errorf("got %+v", got)
	}
}

func TestWhatIsNoAssignment(t *testing.T) {
	t.Parallel()
	good := encodeAssignment(&wire.Delivery{In: wire.In{Subject: "s"}, Stored: &wire.Stored{Stream: "S", Sequence: 1, Attempt: 1}}, "to", "in", assignmentID{})
	for name, m := range map[string]*nats.Msg{
		"no headers":      {Reply: good.Reply},
		"no reply":        {Header: nats.Header(good.Header)},
		"another's reply": {Header: nats.Header(good.Header), Reply: "a.b.c.d.e"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, _, err := decodeAssignment(m); !errors.Is(err, errNoAssignment) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestOutcomesTravel(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]settle.Outcome{
		"done":      {},
		"failed":    {Err: &settle.Failure{Cause: "cause", Text: "text"}},
		"permanent": {Err: &settle.Failure{Cause: "cause", Text: "text"}, Permanent: true},
		"asked":     {Err: &settle.Failure{Cause: "cause", Text: "text"}, Asked: true, After: time.Minute},
		"postponed": {Err: &settle.Failure{Cause: "cause", Text: "text"}, Postponed: true, After: time.Minute},
		"cut off":   {Err: &settle.Failure{Cause: "cause", Text: "text"}, Returned: true},
		"returned":  {Returned: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := encodeOutcome(o, func(error) string { return "cause" }).decode()
			if f, ok := errors.AsType[*settle.Failure](got.Err); ok != (o.Err != nil) || ok && *f != (settle.Failure{Cause: "cause", Text: "text"}) {
				t.Errorf("got the error %v", got.Err)
			}
			got.Err, o.Err = nil, nil
			if got != o {
				t.Errorf("got %+v", got)
			}
		})
	}
}
