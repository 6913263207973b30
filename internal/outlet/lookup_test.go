package outlet_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/testserver"
)

// A question about a stream is asked again while its cluster has no leader.
func TestLookUpWithoutALeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		asked := 0
		answer(t, s, "$JS.API.STREAM.MSG.GET.S", func() string {
			if asked++; asked < 4 {
				return noLeader
			}
			return `{"message":{"seq":7}}`
		})
		found, ok, err := newSender(t, s).LookUp(t.Context(), "S", outlet.Query{Sequence: 7})
		if !ok || err != nil || found.Sequence != 7 || asked != 4 {
			t.Errorf("found %+v, %v, %v after %d questions", found, ok, err, asked)
		}
	})
}

// A message whose answer was lost is stored though the cluster has no leader for a while.
func TestStoreWhileNobodyLeads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		stream(t, s, func(n int, _ *nats.Msg) string {
			if n == 1 {
				return "" // the answer is lost
			}
			return ackText
		})
		began := time.Now()
		answer(t, s, "$JS.API.STREAM.INFO.S", func() string {
			if time.Since(began) < 10*time.Second {
				return noLeader
			}
			return fmt.Sprintf(`{"ts":%q,"created":"2000-01-01T00:00:00Z","state":{}}`, time.Now().Format(time.RFC3339Nano))
		})
		m := message("x")
		m.Stream = "S"
		if _, err := newSender(t, s).Store(t.Context(), m); err != nil {
			t.Errorf("it is not stored: %v", err)
		}
	})
}

const noLeader = `{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`

// answer answers the requests on a subject.
func answer(t *testing.T, s *testserver.Server, subject string, text func() string) {
	t.Helper()
	l := s.Link(t)
	if _, err := l.Conn().Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte(text())) }); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
}
