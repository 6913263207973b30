package core_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/leakcheck"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/testserver/testcore"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// A stream for which the server had no directory is created once more, and other refusals
// come back at once.
func TestCreateStreamAgain(t *testing.T) {
	t.Parallel()
	const (
		noStore = `{"error":{"code":500,"err_code":10049,"description":"error creating store for stream"}}`
		other   = `{"error":{"code":500,"err_code":10049,"description":"no room"}}`
		created = `{"type":"io.nats.jetstream.api.v1.stream_create_response","config":{"name":"S"},"state":{}}`
	)
	for _, tc := range []struct {
		name    string
		answers []string // the last one is repeated
		asked   int
		failed  bool
	}{
		{"created", []string{created}, 1, false},
		{"created in the end", []string{noStore, noStore, created}, 3, false},
		{"no store at all", []string{noStore}, 5, true},
		{"refused", []string{other}, 1, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			c := testcore.New(t, s)
			var asked atomic.Int32
			nc := s.Conn(t)
			_, err := nc.Subscribe("$JS.API.STREAM.CREATE.S", func(m *nats.Msg) {
				n := int(asked.Add(1))
				_ = m.Respond([]byte(tc.answers[min(n, len(tc.answers))-1]))
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := nc.FlushWithContext(ctx); err != nil {
				t.Fatal(err)
			}
			_, err = c.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S"})
			if refused := new(jetstream.APIError); errors.As(err, &refused) != tc.failed || (err != nil) != tc.failed {
				t.Errorf("got %v", err)
			}
			if n := int(asked.Load()); n != tc.asked {
				t.Errorf("the server was asked %d times, want %d", n, tc.asked)
			}
		})
	}
}
