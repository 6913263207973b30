package ownership

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// Whatever somebody else writes where the members meet, the durable stands still for no longer
// than maxTTL, and the members say what it was.
func TestOddRecordsStopNothingForLong(t *testing.T) {
	for name, c := range map[string]struct {
		lease, record string // written while a member is the owner
		says          string
		stalled       bool // Health shows it meanwhile
	}{
		"a lease of 292 years":        {lease: `{"member":"gone","ttl":9223372036854775807}`, says: "10s counts", stalled: true},
		"a negative lease":            {lease: `{"member":"gone","ttl":-1}`, says: "0s counts", stalled: true},
		"no lease":                    {lease: `{"member":`, says: "not the JSON of a lease", stalled: true},
		"a lease that is a list":      {lease: `[]`, says: "not the JSON of a lease", stalled: true},
		"no settle record":            {record: `{"entries":"?"}`, lease: `{"member":"gone","free":true}`, says: "it was removed"},
		"a settle record of nonsense": {record: `{"entries":[{"source":-7,"position":18446744073709551615,"dead":{"attempts":-9}}]}`, lease: `{"member":"gone","free":true}`},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.mayFail = true
				w.publish(3, 100)
				p := w.join("p", 4)
				synctest.Wait()
				if c.record != "" {
					_, err := w.js.Publish(t.Context(), names.settleRecord(), []byte(c.record))
					must(t, err)
				}
				_, err := w.js.Publish(t.Context(), names.lease(), []byte(c.lease))
				must(t, err)
				time.Sleep(ttl)
				if stalled := p.Stalled(); (stalled != nil) != c.stalled {
					t.Errorf("stalled is %v", stalled)
				}
				time.Sleep(maxTTL + ackWait + 100*handler + ttl)
				if !w.done() || p.Stalled() != nil {
					t.Errorf("it is not done; stalled is %v", p.Stalled())
				}
				p.drain()
				said := fmt.Sprint(w.reported)
				if !strings.Contains(said, c.says) || c.says == "" && len(w.reported) > 0 {
					t.Errorf("it said %q", said)
				}
			})
		})
	}
}

// A member that says it may be silent for an hour, and takes messages and is silent, keeps them
// for maxTTL. What only a program with odd ideas sends is refused and reported.
func TestOddMembers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mayFail = true
		w.publish(10, 200)
		p := w.join("p", 1)
		synctest.Wait()
		owner := p.currentOwner()
		mute := w.dial(nil)
		defer mute.Close()
		taken, err := mute.Conn().Subscribe(names.assignments("mute"), func(*nats.Msg) {})
		must(t, err)
		say := func(text string) {
			must(t, mute.Publish(&wire.Out{Subject: names.owner(owner.epoch), Reply: "nobody", Data: []byte(text)}))
			synctest.Wait()
		}
		for _, bad := range []string{
			``, `{}`, `{"beat":{}}`, `{"beat":{"member":"a.b"}}`, `{"beat":{"member":"a b"}}`, `{"beat":{"member":">"}}`,
			`{"beat":{"member":"p","gone":true}}`, `{"beat":{"member":"` + strings.Repeat("x", 65) + `"}}`,
			`{"beat":{"member":"m","running":[{"key":"` + strings.Repeat("k", 17) + `"}]}}`,
			`{"result":{"member":""}}`,
		} {
			time.Sleep(minOddInterval)
			before := len(w.reported)
			if say(bad); len(w.reported) != before+1 || len(owner.dispatcher.members) != 1 {
				t.Errorf("%s: reports %v, members %d", bad, w.reported[before:], len(owner.dispatcher.members))
			}
		}
		time.Sleep(minOddInterval)
		say(`{"beat":{"member":"mute","ttl":3600000000000,"hands":1000,"running":[]}}`)
		if said := fmt.Sprint(w.reported[len(w.reported)-1]); !strings.Contains(said, "1h0m0s") {
			t.Errorf("it said %q", said)
		}
		time.Sleep(2 * time.Second)
		if n, err := taken.Delivered(); err != nil || n == 0 {
			t.Errorf("the mute member got %d messages, %v", n, err)
		}
		began := time.Now()
		if w.await(); time.Since(began) > maxTTL+2000*handler {
			t.Errorf("it took %v", time.Since(began))
		}
		for i := range 2 * maxMembers {
			must(t, mute.Publish(&wire.Out{Subject: names.owner(owner.epoch), Reply: "nobody", Data: fmt.Appendf(nil, `{"beat":{"member":"m%d"}}`, i)}))
		}
		synctest.Wait()
		if n := len(owner.dispatcher.members); n > maxMembers {
			t.Errorf("the owner knows %d members", n)
		}
		p.drain()
	})
}

// A message that is none of the durable does not reach the handler.
func TestForeignAssignmentsAreRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mayFail = true
		p := w.join("p", 1)
		synctest.Wait()
		p.cfg.Accepts = func(d *wire.Delivery) error { return fmt.Errorf("it is not %s", d.Subject) }
		d := &wire.Delivery{In: wire.In{Subject: "elsewhere"}, Stored: &wire.Stored{Stream: "S", Sequence: 1, Deliveries: 1, Attempt: 1, Time: time.Now()}}
		out := encodeAssignment(d, names.assignments("p"), "inbox", assignmentID{Epoch: 1, Number: 1, Key: "a"})
		must(t, p.link.Publish(&out))
		synctest.Wait()
		if len(w.reported) != 1 || p.Begun() != 0 {
			t.Errorf("reported %v, %d handler calls", w.reported, p.Begun())
		}
		p.drain()
	})
}

func FuzzLease(f *testing.F) {
	f.Add(encode(lease{Member: "a", TTL: ttl}))
	f.Add([]byte(`{"member":"gone","ttl":9223372036854775807}`))
	f.Add([]byte(`{"ttl":-1,"free":true}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := parseLease(data)
		if s := l.silence(); s < 0 || s > maxTTL {
			t.Errorf("its owner may be silent for %v", s)
		}
		if l.problem() == nil && parseLease(encode(l)) != l {
			t.Errorf("%+v does not survive", l)
		}
		if l != parseLease(data) {
			t.Error("the same lease differs from itself")
		}
	})
}

func FuzzSettleRecord(f *testing.F) {
	f.Add(encode(settleRecord{Entries: []settledMessage{{messageID: messageID{Source: 1, Position: 7, Time: 8},
		Dead: &settle.DeadReason{Cause: "error", Error: "no", Attempts: 3}}}}))
	f.Add([]byte(`{"entries":"?"}`))
	f.Add([]byte(`{"entries":[{"dead":{"attempts":-9,"cause":"\u0000","error":"\ud800"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseSettleRecord(data)
		if err != nil && len(r.Entries) > 0 {
			t.Error("it has entries and an error")
		}
		for _, e := range r.Entries {
			if e.Dead != nil {
				checkBounds(t, e.Dead.Cause, e.Dead.Error)
				if e.Dead.Attempts < 0 || e.Dead.Attempts > sidestream.MaxAttempts {
					t.Errorf("%d attempts", e.Dead.Attempts)
				}
			}
			if e.maxSize() <= 0 {
				t.Error("an entry has no size")
			}
		}
	})
}

func checkBounds(t *testing.T, cause, text string) {
	t.Helper()
	if len(cause) > 32 || strings.ContainsFunc(cause, func(r rune) bool { return r < ' ' || r > '~' }) || len(text) > sidestream.MaxError {
		t.Errorf("cause %q, text of %d bytes", cause, len(text))
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(encode(request{Heartbeat: &heartbeat{Member: "a", TTL: ttl, Workers: 3, Running: []assignmentID{{1, 2, "k"}}}}))
	f.Add(encode(request{Outcome: &outcomeReport{Member: "a", Assignment: assignmentID{1, 2, "k"}, Outcome: outcome{Failed: true, Error: "x", Cause: "y", After: time.Hour}}}))
	f.Add([]byte(`{"beat":{"member":"mute","ttl":3600000000000,"hands":-1,"running":[{"epoch":18446744073709551615}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, _, err := parseRequest(data)
		if err != nil {
			return
		}
		if h := r.Heartbeat; h != nil && (h.TTL < 0 || h.TTL > maxTTL || h.Workers < 0 || h.Workers > maxWorkers || checkName(h.Member) != nil) {
			t.Errorf("got %+v", h)
		}
		if o := r.Outcome; o != nil {
			checkBounds(t, o.Outcome.Cause, o.Outcome.Error)
			if o.Outcome.After < 0 || o.Outcome.After > maxAfter || checkName(o.Member) != nil {
				t.Errorf("got %+v", o)
			}
			_ = o.Outcome.decode()
		}
		_, odd, err := parseRequest(encode(r))
		if odd != nil || err != nil {
			t.Errorf("it does not survive: %v, %v", odd, err)
		}
	})
}

func FuzzAssignment(f *testing.F) {
	f.Add("in.1.2.k.3", "s.a", "7", "3")
	f.Add("a.b.c.d.e", "", "-1", "99999999999999999999")
	f.Fuzz(func(t *testing.T, reply, subject, sequence, attempts string) {
		d, id, err := decodeAssignment(&nats.Msg{Reply: reply, Header: nats.Header{"Bus-Origin-Subject": {subject}, "Bus-Origin-Stream": {"S"},
			"Bus-Origin-Sequence": {sequence}, "Bus-Origin-Time": {"2026-01-01T00:00:00Z"}, "Bus-Attempts": {attempts}}})
		if err != nil {
			return
		}
		if s := d.Stored; s.Attempt < 1 || s.Attempt > sidestream.MaxAttempts+1 || s.Deliveries < 0 || len(id.Key) > maxKey {
			t.Errorf("got %+v as %+v", s, id)
		}
	})
}
