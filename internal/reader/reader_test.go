package reader_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/reader"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// stream takes the part of a stream with messages 1 to last. It answers as a server does, with
// the faults that a test sets.
type stream struct {
	t    *testing.T
	last uint64

	mu sync.Mutex // held during an answer

	created string              // creation time
	lose    func(n uint64) bool // reports whether a message of a batch is lost
	copies  int                 // its replicas
	behind  uint64              // so many messages are missing on the replica that answers batches
	ignored int                 // so many requests for batches get no answer
	batches int                 // requested
	single  bool                // answers each request with one message, as servers before 2.11 do
	counts  uint64              // added to what a message says of those after it: 1 as in nats-server 2.11
}

func newStream(t *testing.T, l *link.Link, last uint64, change func(*stream)) *stream {
	t.Helper()
	s := &stream{t: t, last: last, created: "2026-11-24T00:00:00Z", lose: func(uint64) bool { return false }}
	change(s)
	for subject, f := range map[string]nats.MsgHandler{
		"$JS.API.STREAM.INFO.S": s.info, "$JS.API.DIRECT.GET.S": s.batch, "$JS.API.STREAM.MSG.GET.S": s.get} {
		if _, err := l.Conn().Subscribe(subject, func(m *nats.Msg) {
			s.mu.Lock()
			defer s.mu.Unlock()
			f(m)
		}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *stream) info(m *nats.Msg) {
	_ = m.Respond(fmt.Appendf(nil, `{"created":%q,"config":{"allow_direct":true,"num_replicas":%d},"state":{"first_seq":1,"last_seq":%d}}`, s.created, s.copies, s.last))
}

type request struct {
	Seq   uint64 `json:"seq"`
	Batch uint64 `json:"batch"`
}

func (s *stream) request(m *nats.Msg) (r request) {
	if err := json.Unmarshal(m.Data, &r); err != nil {
		s.t.Error(err)
	}
	return r
}

func (s *stream) batch(m *nats.Msg) {
	r := s.request(m)
	if s.batches++; s.batches <= s.ignored {
		return
	}
	if s.last-s.behind < r.Seq {
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"404"}, "Description": {"Message Not Found"}}})
		return
	}
	if s.single {
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Nats-Stream": {"S"}, "Nats-Subject": {"s"}, "Nats-Sequence": {fmt.Sprint(max(r.Seq, 1))},
			"Nats-Time-Stamp": {s.created}}})
		return
	}
	before, end := uint64(0), min(r.Seq+r.Batch-1, s.last-s.behind)
	for n := r.Seq; n <= end; n++ {
		if !s.lose(n) {
			_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Nats-Stream": {"S"}, "Nats-Subject": {"s"}, "Nats-Sequence": {fmt.Sprint(n)},
				"Nats-Time-Stamp": {s.created}, "Nats-Last-Sequence": {fmt.Sprint(before)}, "Nats-Num-Pending": {fmt.Sprint(s.last - n + s.counts)}}})
		}
		before = n
	}
	_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"204"}, "Description": {"EOB"},
		"Nats-Last-Sequence": {fmt.Sprint(before)}, "Nats-Num-Pending": {fmt.Sprint(s.last - s.behind - end)}}})
}

func (s *stream) get(m *nats.Msg) {
	r := s.request(m)
	if r.Seq > s.last {
		_ = m.Respond([]byte(`{"error":{"code":404,"err_code":10037,"description":"no message found"}}`))
		return
	}
	_ = m.Respond(fmt.Appendf(nil, `{"message":{"subject":"s","seq":%d,"time":%q}}`, r.Seq, s.created))
}

// read returns the sequences of all messages, and the error that ended reading.
func read(t *testing.T, r *reader.Reader) (all []uint64, err error) {
	t.Helper()
	if err := r.SetEnd(t.Context()); err != nil {
		return nil, err
	}
	for {
		d, ok, err := r.Next(t.Context())
		if err != nil || !ok {
			return all, err
		}
		all = append(all, d.Stored.Sequence)
	}
}

// Each message comes once and in order, whatever happens to the answers.
func TestReaderMissesNothing(t *testing.T) {
	t.Parallel()
	const last = 1000
	want := make([]uint64, last)
	for i := range want {
		want[i] = uint64(i + 1)
	}
	for name, change := range map[string]func(*stream){
		"no faults": func(*stream) {},
		"messages are lost": func(s *stream) {
			lost := map[uint64]bool{1: true, 16: true, 17: true, 100: true, 500: true, last: true}
			s.lose = func(n uint64) bool { l := lost[n]; delete(lost, n); return l }
		},
		"requests are lost":                       func(s *stream) { s.ignored = 2 },
		"a replica is behind":                     func(s *stream) { s.behind = 20 },
		"a replica has nothing":                   func(s *stream) { s.behind = last },
		"a replica is behind and loses a request": func(s *stream) { s.behind = 3; s.ignored = 1 },
		"the leader knows no batches":             func(s *stream) { s.single = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := testserver.New(t).Link(t)
				newStream(t, l, last, change)
				r := reader.New(l, reader.Config{Stream: "S", Filter: ">", Timeout: 30 * time.Second})
				defer r.Close()
				got, err := read(t, r)
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("read %d messages, %v", len(got), err)
				}
			})
		})
	}
}

// A request without an answer is repeated until the timeout.
func TestReaderRetriesUntilTheTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := testserver.New(t).Link(t)
		s := newStream(t, l, 10, func(s *stream) { s.ignored = 1000 })
		r := reader.New(l, reader.Config{Stream: "S", Filter: ">", Timeout: 10 * time.Second})
		defer r.Close()
		began := time.Now()
		_, err := read(t, r)
		s.mu.Lock()
		defer s.mu.Unlock()
		if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took != 10*time.Second || s.batches != 5 {
			t.Errorf("it ended after %v and %d requests: %v", took, s.batches, err)
		}
	})
}

// A stream that was deleted and created again is not the one that was read.
func TestReaderOfAnotherStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := testserver.New(t).Link(t)
		s := newStream(t, l, 10, func(*stream) {})
		r := reader.New(l, reader.Config{Stream: "S", Filter: ">", Timeout: time.Second})
		defer r.Close()
		if _, err := read(t, r); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		s.created = "2026-11-24T00:00:01Z"
		s.mu.Unlock()
		if err := r.SetEnd(t.Context()); !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("got %v", err)
		}
	})
}

// While the buffer of the connection is full no request can be sent. Reading waits until its
// context ends.
func TestReaderWaitsWhileTheBufferIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := testserver.New(t).Link(t)
		newStream(t, l, 100, func(*stream) {})
		r := reader.New(l, reader.Config{Stream: "S", Filter: ">"})
		defer r.Close()
		if err := r.SetEnd(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, ok, err := r.Next(ctx)
		if !ok || err != nil {
			t.Fatalf("the first message: %v, %v", ok, err)
		}
		l.Abort() // for good
		for full := false; !full; time.Sleep(time.Millisecond) {
			full = errors.Is(l.Publish(&wire.Out{Subject: "x", Data: make([]byte, 1<<20)}), nats.ErrReconnectBufExceeded)
		}
		for ok && err == nil {
			_, ok, err = r.Next(ctx)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, %v", ok, err)
		}
	})
}

// Count is right whatever the messages say of those after them, and when answers are lost. A
// server that knows no batches cannot count; the last messages are found all the same.
func TestReaderCounts(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*stream){
		"no faults":         func(*stream) {},
		"as 2.11 counts":    func(s *stream) { s.counts = 1 },
		"requests are lost": func(s *stream) { s.ignored = 2 },
		"a message is lost": func(s *stream) {
			lost := false
			s.lose = func(uint64) bool { l := !lost; lost = true; return l }
		},
		"the leader knows no batches": func(s *stream) { s.single = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := testserver.New(t).Link(t)
				s := newStream(t, l, 100, change)
				r := reader.New(l, reader.Config{Stream: "S", Filter: ">", Timeout: 30 * time.Second})
				defer r.Close()
				if err := r.SetEnd(t.Context()); err != nil {
					t.Fatal(err)
				}
				for from, want := range map[uint64]uint64{1: 100, 100: 1, 101: 0} {
					n, err := r.Count(t.Context(), from)
					if s.single && from <= 100 {
						if !errors.Is(err, reader.ErrNoDirect) {
							t.Errorf("counted %d, %v", n, err)
						}
					} else if err != nil && !s.single || n != want {
						t.Errorf("from %d on: counted %d, %v", from, n, err)
					}
				}
				if err := r.SeekLast(t.Context(), 7); err != nil {
					t.Fatal(err)
				}
				if d, ok, err := r.Next(t.Context()); !ok || err != nil || d.Stored.Sequence != 94 {
					t.Errorf("the last 7 begin with %v, %v, %v", d.Stored, ok, err)
				}
			})
		})
	}
}

// The last messages are those up to the end, also if a replica that is behind answers.
func TestSeekLastWhenAReplicaIsBehind(t *testing.T) {
	t.Parallel()
	for _, behind := range []uint64{1, 5, 50, 100} {
		t.Run(fmt.Sprint(behind), func(t *testing.T) {
			t.Parallel()
			l := testserver.New(t).Link(t)
			newStream(t, l, 100, func(s *stream) { s.copies, s.behind = 3, behind })
			r := reader.New(l, reader.Config{Stream: "S", Filter: ">", Timeout: 30 * time.Second})
			defer r.Close()
			if err := r.SetEnd(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := r.SeekLast(t.Context(), 7); err != nil {
				t.Fatal(err)
			}
			if d, ok, err := r.Next(t.Context()); !ok || err != nil || d.Stored.Sequence != 94 {
				t.Errorf("the last 7 begin with %v, %v, %v", d.Stored, ok, err)
			}
		})
	}
}
